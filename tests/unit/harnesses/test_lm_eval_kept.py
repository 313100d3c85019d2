"""What was made of lm-eval's files is used until one of them changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evalkit.harnesses.call import INSIDE
from evalkit.harnesses.inside.lm_eval_kept import kept

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = Path(__file__).parents[2] / "data" / "samples" / "lm_eval_tasks"
BOTH_WAYS = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex
from lm_eval_kept import quick_index

tasks, folder = Path(sys.argv[2]), Path(sys.argv[3])

def told():
    index = TaskIndex.build([tasks, tasks / "none"])
    return [[e.name, e.kind.name, str(e.yaml_path), sorted(e.tags)] for e in index.values()]

own = told()
found = []
for _ in range(2):
    with quick_index(folder, tasks):
        found.append(told())
[path] = folder.iterdir()
found.append([row[0] for row in json.loads(path.read_text())["made"]])
path.write_text(path.read_text().replace("toy_sums", "told_from_here"))
with quick_index(folder, tasks):
    found.append(sorted(row[0] for row in told()))
assert told() == own
print(json.dumps([own, *found]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "a.yaml").write_text("task: a\n")
    return folder


@pytest.fixture
def asked(source: Path, tmp_path: Path) -> Callable[[], tuple[list[str], int]]:
    """The names of files, and how often they were looked for."""
    made = 0

    def make() -> list[str]:
        nonlocal made
        made += 1
        return sorted(path.name for path in source.rglob("*.yaml"))

    return lambda: (kept(tmp_path / "kept", "names", source, make), made)


def test_it_is_made_once(asked: Callable[[], tuple[list[str], int]]) -> None:
    assert [asked(), asked()] == [(["a.yaml"], 1), (["a.yaml"], 1)]


def test_it_is_made_anew_where_a_file_comes_goes_or_changes(
    asked: Callable[[], tuple[list[str], int]], source: Path
) -> None:
    asked()
    (source / "b.yaml").write_text("task: b\n")
    assert asked() == (["a.yaml", "b.yaml"], 2)
    (source / "b.yaml").unlink()
    assert asked() == (["a.yaml"], 3)
    path = source / "one" / "a.yaml"
    path.write_text("task: c\n")
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    assert asked() == (["a.yaml"], 4)
    (source / "one" / "__pycache__").mkdir()
    (source / "one" / "__pycache__" / "utils.pyc").touch()
    assert asked() == (["a.yaml"], 4)


def test_a_link_to_nothing_is_a_state_like_any_other(
    asked: Callable[[], tuple[list[str], int]], source: Path, tmp_path: Path
) -> None:
    (source / "link.yaml").symlink_to(tmp_path / "later.yaml")
    found = asked()
    assert asked() == found == (["a.yaml", "link.yaml"], 1)
    (tmp_path / "later.yaml").write_text("task: b\n")
    assert asked() == (["a.yaml", "link.yaml"], 2)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"state": "another", "made": ["x"]}'])
def test_a_file_that_is_none_of_ours_is_not_believed(
    asked: Callable[[], tuple[list[str], int]], tmp_path: Path, content: str
) -> None:
    asked()
    [path] = (tmp_path / "kept").iterdir()
    path.write_text(content)
    assert asked() == (["a.yaml"], 2)
    assert asked() == (["a.yaml"], 2)


def test_where_nothing_can_be_written_it_is_made_each_time(
    asked: Callable[[], tuple[list[str], int]], tmp_path: Path
) -> None:
    (tmp_path / "kept").touch()
    assert [asked(), asked()] == [(["a.yaml"], 1), (["a.yaml"], 2)]


@pytest.mark.long
def test_the_index_is_that_of_lm_eval(tmp_path: Path) -> None:
    """Made and kept alike, and what is kept is what is asked."""
    done = subprocess.run(
        [sys.executable, "-c", BOTH_WAYS, INSIDE, TASKS, tmp_path / "index"],
        capture_output=True,
        text=True,
        check=True,
    )
    own, first, second, names, told = json.loads(done.stdout)
    assert own == first == second
    assert sorted(names) == sorted(row[0] for row in own)
    assert "told_from_here" in told
    assert "toy_sums" not in told
