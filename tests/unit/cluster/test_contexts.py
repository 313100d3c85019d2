"""What killed attempts leave on a node's disk."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from evalkit.cluster.contexts import remove_caches

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_caches_of_attempts_that_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs go, whole; those of others stay, and so does what only has the name of one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [f"evalkit-{run}-x" for run in ("1a-r0.a1", "1a-r0.a10", "1a-r1.a1", "2b-r0.a1")]
    for name in names:
        (tmp_path / name / "vllm").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "evalkit-1a-r0.a1-link").symlink_to(elsewhere)
    (tmp_path / "evalkit-1a-r0.a1-node1").mkdir()
    remove_caches("1a", ["r0.a1", "r7.a1"])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names[1:], "elsewhere", "evalkit-1a-r0.a1-link"}
    assert elsewhere.exists()
