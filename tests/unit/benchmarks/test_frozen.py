"""Frozen samples: what was planned is what is sent, or it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.contract import Sample
from evalkit.benchmarks.frozen import FrozenSamples, checksum, freeze, load_frozen, write_frozen
from evalkit.errors import StoreError
from evalkit.store.run import load_plan
from tests.builders import make_run, make_samples
from tests.unit.store.strategies import json_objects, json_values, texts

if TYPE_CHECKING:
    from pathlib import Path

samples = st.builds(
    Sample,
    id=texts,
    messages=st.lists(json_objects, max_size=2).map(tuple),
    target=json_values,
    data=json_objects,
    subset=st.none() | texts,
    cluster=st.none() | texts,
)


@given(st.lists(samples, max_size=5))
def test_samples_survive(given_samples: list[Sample]) -> None:
    """Samples thawed equal those frozen, by index, by slice and from the end."""
    thawed = FrozenSamples(freeze(given_samples))
    assert len(thawed) == len(given_samples)
    assert list(thawed) == given_samples
    assert thawed[1:3] == given_samples[1:3]
    if given_samples:
        assert thawed[-1] == given_samples[-1]
    with pytest.raises(IndexError):
        _ = thawed[len(given_samples)]


def test_bytes_of_a_frozen_sample() -> None:
    """The bytes that the plan's checksum is over: a change of them refuses every old run."""
    assert freeze(make_samples(1)) == (
        b'{"cluster":null,"data":{},"id":"s0","messages":[{"content":"What is 0 + 1?",'
        b'"role":"user"}],"subset":null,"target":0}\n'
    )


def test_field_that_is_no_json() -> None:
    """A sample that cannot be written down is refused when the plan is made."""
    with pytest.raises(TypeError):
        freeze([Sample(id="x", target=object())])


def test_load(tmp_path: Path) -> None:
    """A task's samples come from the run folder alone."""
    folder = make_run(tmp_path, 5)
    task = load_plan(folder).tasks[0]
    assert list(load_frozen(folder, task)) == make_samples(5)


def damage(path: Path, how: str) -> None:
    """Make a file wrong in one of several ways."""
    content = path.read_bytes()
    actions: dict[str, Any] = {
        "missing": path.unlink,
        "cut": lambda: path.write_bytes(content[:-3]),
        "noise": lambda: path.write_bytes(b"noise"),
        "empty": lambda: path.write_bytes(b""),
        "other": lambda: write_frozen(path, freeze(make_samples(4))),
    }
    actions[how]()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "cannot read {path}: No such file or directory"),
        ("cut", "{path} is damaged: "),
        ("noise", "{path} is damaged: "),
        ("empty", "{path} is damaged: "),
        ("other", "{path} is not the file that was planned: its checksum differs"),
    ],
)
def test_damaged_file(tmp_path: Path, how: str, message: str) -> None:
    """A file that is not the one that was planned is refused, with what to do."""
    folder = make_run(tmp_path, 5)
    path = folder.requests("addition")
    damage(path, how)
    with pytest.raises(StoreError) as caught:
        load_frozen(folder, load_plan(folder).tasks[0])
    assert caught.value.message.startswith(message.replace("{path}", str(path)))
    assert caught.value.hint == "Restore the file, or start a new run."


def test_checksum_is_over_the_plain_lines(tmp_path: Path) -> None:
    """How well the file is compressed is no part of what was planned."""
    folder = make_run(tmp_path, 5)
    frozen = freeze(make_samples(5))
    assert load_plan(folder).tasks[0].requests_sha256 == checksum(frozen)
    again = zstandard.ZstdCompressor(level=1).compress(frozen)
    folder.requests("addition").write_bytes(again)
    assert len(load_frozen(folder, load_plan(folder).tasks[0])) == 5
