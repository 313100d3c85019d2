"""Fingerprints of checkpoints: what must change them, what must not, and what is no checkpoint."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from evalkit.errors import IncompleteCheckpointError, RecipeError
from evalkit.plan.model import ModelIdentity
from evalkit.recipe.schema import Model
from evalkit.serving import identity
from evalkit.serving.identity import checkpoint_identity, fingerprint_file

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tensors(content: bytes = b"weights") -> bytes:
    """A safetensors file with one tensor of these bytes."""
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}
    )
    return len(header).to_bytes(8, "little") + header.encode() + content


def make_checkpoint(folder: Path, **files: str | bytes) -> Path:
    """A folder with the files of a checkpoint; `name__ext` stands for `name.ext`."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: dict[str, str | bytes] = {
        "config__json": "{}",
        "model__safetensors": tensors(),
        "tokenizer__json": "{}",
        **files,
    }
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def identify(folder: Path) -> ModelIdentity:
    """Identity of a folder as `models.nano`."""
    return checkpoint_identity("nano", Model(path=folder.name), folder.parent)


def test_equal_checkpoints_are_equal_anywhere(tmp_path: Path) -> None:
    """The place of a checkpoint and the times of its files are not part of its identity."""
    first = make_checkpoint(tmp_path / "a" / "nano")
    second = make_checkpoint(tmp_path / "b" / "nano")
    os.utime(second / "config.json", (0, 0))
    assert identify(first) == identify(second)
    assert identify(first).source == "nano"
    assert str(tmp_path) not in identify(first).model_dump_json()


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("model.safetensors", "weights"),
        ("model-2.safetensors", "weights"),
        ("config.json", "config"),
        ("generation_config.json", "config"),
        ("hf_quant_config.json", "config"),
        ("modeling_nano.py", "config"),
        ("tokenizer.json", "tokenizer"),
        ("merges.txt", "tokenizer"),
        ("chat_template.jinja", "chat_template"),
    ],
)
def test_each_file_has_its_part(tmp_path: Path, file: str, part: str) -> None:
    """Another content of a file changes the part that it belongs to, and only that."""
    folder = make_checkpoint(tmp_path / "nano")
    before = identify(folder).model_dump()
    other = tensors(b"others!") if file.endswith(".safetensors") else b'{"other": 1}'
    (folder / file).write_bytes(other)
    after = identify(folder).model_dump()
    assert {key for key in before if before[key] != after[key]} == {part}


def test_other_files_do_not_count(tmp_path: Path) -> None:
    """Leftovers of training and notes are not the model."""
    folder = make_checkpoint(tmp_path / "nano")
    before = identify(folder)
    for name in ("training_args.bin", "optimizer.pt", "README.md", "trainer_state.json"):
        (folder / name).write_text("x")
    assert identify(folder) == before


def test_chat_template_counts_wherever_it_is(tmp_path: Path) -> None:
    """The same template in a file of its own or inside JSON has the same hash."""
    body = json.dumps({"chat_template": TEMPLATE})
    found = {
        identify(make_checkpoint(tmp_path / name, **{file: content})).chat_template
        for name, file, content in (
            ("a", "chat_template__jinja", TEMPLATE),
            ("b", "chat_template__json", body),
            ("c", "tokenizer_config__json", body),
        )
    }
    assert len(found) == 1
    assert None not in found
    named = json.dumps({"chat_template": [{"name": "default", "template": TEMPLATE}]})
    listed = identify(make_checkpoint(tmp_path / "d", tokenizer_config__json=named)).chat_template
    assert listed not in (*found, None)
    assert identify(make_checkpoint(tmp_path / "e")).chat_template is None


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large file the header, the size, the first and the last bytes count."""
    monkeypatch.setattr(identity, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(identity, "BLOCK_BYTES", 16)
    monkeypatch.setattr(identity, "BLOCKS", 4)
    path = tmp_path / "model.safetensors"
    header = b'{"tensor": 1}' + b" " * 487
    data = len(header).to_bytes(8, "little") + header + bytes(1500)

    def fingerprint(content: bytes) -> str:
        path.write_bytes(content)
        return fingerprint_file(path)

    whole = fingerprint(data)
    assert fingerprint(data) == whole
    assert fingerprint(data + b"\0") != whole
    assert fingerprint(data[:-1] + b"x") != whole
    assert fingerprint(data[:400] + b"x" + data[401:]) != whole, "the header counts whole"
    assert fingerprint(data[:-1001] + b"x" + data[-1000:]) == whole, "between the blocks"


def test_hosted_model(tmp_path: Path) -> None:
    """A hosted model has its name alone."""
    hosted = checkpoint_identity("nano", Model(id="vendor/nano"), tmp_path)
    assert hosted == ModelIdentity(name="nano", source="vendor/nano")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    """A missing folder, config or weight file is an error that names the recipe's key."""
    with pytest.raises(
        RecipeError, match=r"models\.nano\.path: no folder (.|\n)*relative to the recipe"
    ):
        identify(tmp_path / "absent")
    bare = make_checkpoint(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"models\.nano\.path: .* has no weights"):
        identify(bare)
    dummy = checkpoint_identity("nano", Model(path="bare"), tmp_path, need_weights=False)
    assert dummy.weights is None
    (bare / "config.json").unlink()
    with pytest.raises(RecipeError, match=r"models\.nano\.path: .* has no config.json"):
        identify(bare)


def test_incomplete_copy(tmp_path: Path) -> None:
    """A shard that the index names and the folder lacks is found before any GPU is asked for."""
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    folder = make_checkpoint(tmp_path / "nano")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(RecipeError, match=r"1 of 2 weight files are missing, first model-2"):
        identify(folder)
    (folder / "model-2.safetensors").write_bytes(tensors())
    assert identify(folder).weights is not None
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(RecipeError, match="not an index"):
        identify(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tensors(b"weights")[:-1], r"model\.safetensors has \d+ bytes of \d+"),
        (tensors(b"weights")[:20], "does not begin like a safetensors file"),
        (b"", "does not begin like a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (tensors(b"weights") + b"more", None),
    ],
)
def test_a_file_that_is_still_being_written(
    tmp_path: Path, content: bytes, said: str | None
) -> None:
    """A copy that broke off, or goes on, is no checkpoint: its identity would be another's later."""
    folder = make_checkpoint(tmp_path / "nano", model__safetensors=content)
    if said is None:
        assert identify(folder).weights is not None
        return
    with pytest.raises(IncompleteCheckpointError) as caught:
        identify(folder)
    assert re.search(said, str(caught.value))
