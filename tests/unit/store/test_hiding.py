"""Secrets in files: all of them go, wherever pieces end, and other formats stay whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import StoreError
from evalkit.redaction import redact
from evalkit.store import hiding
from evalkit.store.hiding import copy_redacted, redact_file

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = ("key-bb", "key-bb-suffix", "key-aaaa")
"""One is the beginning of another."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hiding")


@given(
    st.lists(
        st.sampled_from([*SECRETS, "key-", "key-bb-suff", "a", "é", "\n", "\0"]), max_size=12
    ).map("".join),
    st.integers(1, 30),
)
def test_as_in_text(folder: Path, text: str, piece: int) -> None:
    """A file read in pieces of any size is what the whole text is made to."""
    path = folder / "log"
    path.write_text(text, "utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hiding, "PIECE", piece)
        redact_file(path, SECRETS)
    assert path.read_bytes().decode() == redact(text, sorted(SECRETS, key=len, reverse=True))


def test_copies(tmp_path: Path) -> None:
    """A text loses its secrets; what is none would be damaged."""
    text, data = tmp_path / "a.json", tmp_path / "a.sqlite"
    text.write_text('{"k": "key-bb"}')
    data.write_bytes(b"\0\1key-bb")
    for path in (text, data):
        copy_redacted(path, tmp_path / "out" / path.name, SECRETS)
    assert (tmp_path / "out/a.json").read_text() == '{"k": "***"}'
    assert (tmp_path / "out/a.sqlite").read_bytes() == b"\0\1key-bb"
    assert text.read_text() == '{"k": "key-bb"}'


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """No log is nothing to do; one that cannot be read is an error that names it."""
    redact_file(tmp_path / "none", SECRETS)
    with pytest.raises(StoreError, match=f"cannot read {tmp_path}"):
        redact_file(tmp_path, SECRETS)


def test_any_bytes(tmp_path: Path) -> None:
    """A value of the environment need not be UTF-8, and a zero makes no other format of a log."""
    log = tmp_path / "log"
    log.write_bytes(b"\0 said key-\xff\xfe, key-bb")
    redact_file(log, [*SECRETS, os.fsdecode(b"key-\xff\xfe")])
    assert log.read_bytes() == b"\0 said ***, ***"
