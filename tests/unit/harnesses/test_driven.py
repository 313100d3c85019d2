"""Files of programs on their way into the artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from evalkit.errors import ScorerError
from evalkit.harnesses.driven import keep

if TYPE_CHECKING:
    from pathlib import Path


def test_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its own name, however long, without what was passed; one that is gone says what to do."""
    monkeypatch.setenv("A_KEY", "key-of-mine")
    name = 255 * "n"
    (tmp_path / name).write_text("it is key-of-mine")
    keep(tmp_path / name, tmp_path / "out", f"000/{name}", ["A_KEY"])
    assert (tmp_path / "out/000" / name).read_text() == "it is ***"
    with pytest.raises(ScorerError, match=f"is gone: {tmp_path}/none") as caught:
        keep(tmp_path / "none", tmp_path / "out", "none")
    assert "`evalkit gather --replay`" in str(caught.value.hint)
