"""Names and folders of new plug-ins: refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalkit.errors import UsageError
from evalkit.scaffold import write_plugin


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Words", "'Words' cannot be a name of a plug-in"),
        ("1st", "cannot be a name"),
        ("a-b", "cannot be a name"),
        ("../x", "cannot be a name"),
        ("", "cannot be a name"),
        ("class", "cannot be a name"),
        ("addition", "there is a benchmark addition already"),
    ],
)
def test_names(tmp_path: Path, name: str, message: str) -> None:
    """What recipes and Python cannot call so, and what is taken."""
    with pytest.raises(UsageError, match=message):
        write_plugin("benchmark", name, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module would hide the other one."""
    (tmp_path / "site" / "evalkit_words").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(UsageError, match="a package evalkit_words is installed already"):
        write_plugin("harness", "words", tmp_path / "new")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is there is written over; the default is a folder here."""
    monkeypatch.chdir(tmp_path)
    written = write_plugin("benchmark", "many_words", None)
    assert Path("evalkit-many-words/src/evalkit_many_words/many_words.jsonl") in written
    assert all(path.is_file() for path in written)
    assert "$" not in "".join(path.read_text() for path in written)
    with pytest.raises(UsageError, match="evalkit-many-words is there already"):
        write_plugin("benchmark", "many_words", None)
    (tmp_path / "empty").mkdir()
    assert write_plugin("harness", "more_words", tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is there already"):
        write_plugin("harness", "more_words", tmp_path / "file")
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        write_plugin("harness", "more_words", tmp_path / "file" / "below")
