"""A run's written-once files: made together, never changed, and refused with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from evalkit.errors import StoreError, UsageError
from evalkit.recipe.schema import Client, Cluster
from evalkit.store.layout import RunFolder
from evalkit.store.run import (
    check_creatable,
    create_run,
    is_run,
    load_cluster,
    load_plan,
    save_cluster,
    save_execution,
)
from tests.builders import make_plan, make_prepared

if TYPE_CHECKING:
    from pathlib import Path


def test_create_and_load(tmp_path: Path) -> None:
    """A folder is a run when it holds its plan; the plan read back is the plan."""
    folder, plan = RunFolder(tmp_path / "a" / "run"), make_plan()
    assert not is_run(folder)
    assert create_run(folder, plan, {folder.recipe: b"name: x\n", folder.provenance: b"{}"})
    assert is_run(folder)
    assert load_plan(folder) == plan
    assert folder.recipe.read_bytes() == b"name: x\n"
    assert folder.provenance.read_bytes() == b"{}"


def test_plan_is_written_once(tmp_path: Path) -> None:
    """A second plan is refused, and the first one's bytes stay."""
    folder = RunFolder(tmp_path)
    assert create_run(folder, make_plan(), {})
    before = folder.plan.read_bytes()
    assert not create_run(folder, make_plan(run="other"), {})
    assert folder.plan.read_bytes() == before


def test_folder_without_a_run(tmp_path: Path) -> None:
    """What is no run is named, with the way to make one."""
    with pytest.raises(UsageError) as caught:
        load_plan(RunFolder(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} is not a run: there is no plan.json in it\n"
        "Name a run folder, or make one with `evalkit prepare RECIPE`."
    )
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is not a run"):
        load_plan(RunFolder(tmp_path / "file"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b"null"])
def test_damaged_plan(tmp_path: Path, content: bytes) -> None:
    """A plan that is none is named, and never replaced."""
    folder = RunFolder(tmp_path)
    folder.plan.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{folder.plan} is not a plan(.|\n)*restore it"):
        load_plan(folder)
    assert folder.plan.read_bytes() == content


def test_plan_of_another_version(tmp_path: Path) -> None:
    """A plan of another version names both versions."""
    folder = RunFolder(tmp_path)
    create_run(folder, make_plan(), {})
    raw = orjson.loads(folder.plan.read_bytes())
    folder.plan.write_bytes(orjson.dumps(raw | {"version": 1}))
    with pytest.raises(StoreError, match="has version 1, this evalkit reads 2"):
        load_plan(folder)


def test_plan_that_cannot_be_read(tmp_path: Path) -> None:
    """A plan that is there and cannot be read is an error of the store, not a missing run."""
    folder = RunFolder(tmp_path)
    folder.plan.mkdir()
    with pytest.raises(StoreError, match=f"cannot read {folder.plan}: Is a directory"):
        load_plan(folder)


def test_folder_that_may_not_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a run is there cannot be known without permission, and that is said."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.is_file", refuse)
    with pytest.raises(StoreError, match=f"cannot look into {tmp_path}: Permission denied"):
        is_run(RunFolder(tmp_path))


def test_other_files_are_not_ours(tmp_path: Path) -> None:
    """A folder with files of somebody else is refused; leftovers of a broken start are not."""
    folder = RunFolder(tmp_path / "run")
    check_creatable(folder)
    folder.recipe.touch()
    (folder.root / ".hidden").touch()
    check_creatable(folder)
    (folder.root / "thesis.tex").touch()
    with pytest.raises(StoreError) as caught:
        check_creatable(folder)
    assert str(caught.value) == (
        f"{folder.root} holds files that are no run: thesis.tex\n"
        "Choose another output.dir or output.name; nothing was changed."
    )


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A path below a file is refused with the key to change."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as caught:
        check_creatable(RunFolder(tmp_path / "file" / "run"))
    assert str(caught.value) == (
        f"cannot create the run folder {tmp_path}/file/run: Not a directory\n"
        "Set output.dir to a folder that can be written."
    )


def test_cluster_settings(tmp_path: Path) -> None:
    """Settings of the last submission come back; before the first one they are the defaults."""
    folder = RunFolder(tmp_path)
    assert load_cluster(folder) == Cluster()
    save_cluster(folder, Cluster(replicas=3))
    save_cluster(folder, Cluster(replicas=4))
    assert load_cluster(folder) == Cluster(replicas=4)
    folder.cluster_settings.write_bytes(b'{"replica": 1}')
    with pytest.raises(StoreError, match=f"cannot read {folder.cluster_settings}"):
        load_cluster(folder)


def test_execution_changes_and_the_plan_stays(tmp_path: Path) -> None:
    """Servers and client settings of a later recipe are what is loaded; `plan.json` is untouched."""
    folder, plan = RunFolder(tmp_path), make_plan()
    create_run(folder, plan, {})
    before = folder.plan.read_bytes()
    save_execution(folder, plan)
    assert not folder.current_plan.exists()
    changed = make_plan(client=Client(parallelism=3), model_source="/moved/tiny")
    save_execution(folder, changed)
    assert load_plan(folder).client.parallelism == 3
    assert load_plan(folder).deployments[0].model_source == "/moved/tiny"
    save_execution(folder, plan)
    assert load_plan(folder) == plan
    assert folder.plan.read_bytes() == before


def test_execution_of_another_run_is_not_taken(tmp_path: Path) -> None:
    """A current plan of other settings, left by whatever, changes nothing."""
    folder, plan = RunFolder(tmp_path), make_plan()
    create_run(folder, plan, {})
    other = make_plan(make_prepared(repeats=5), client=Client(parallelism=3))
    save_execution(folder, other)
    assert not folder.current_plan.exists()
    folder.cluster.mkdir()
    folder.current_plan.write_text(other.model_dump_json())
    assert load_plan(folder) == plan


def test_damaged_execution(tmp_path: Path) -> None:
    """A current plan that is none is named, with what to do."""
    folder = RunFolder(tmp_path)
    create_run(folder, make_plan(), {})
    folder.cluster.mkdir()
    folder.current_plan.write_text("{")
    with pytest.raises(StoreError, match=rf"{folder.current_plan} is not a plan(.|\n)*Delete it"):
        load_plan(folder)
