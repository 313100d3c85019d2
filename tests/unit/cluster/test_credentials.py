"""Secrets: by name in the plan, by value in one file that only its owner reads."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from evalkit.cluster.credentials import (
    collect_secrets,
    read_secrets,
    remove_secrets,
    required_secrets,
    secrets_file,
    write_secrets,
)
from evalkit.errors import ClusterError, RecipeError
from evalkit.recipe.serving import ExternalServing, VllmServing
from evalkit.store.layout import RunFolder
from tests.unit.cluster.builders import make_plan, make_task

if TYPE_CHECKING:
    from pathlib import Path

EXTERNAL = ExternalServing(
    kind="external", base_url="http://x/v1", api_key_env="PROVIDER_KEY", secrets=("EXTRA",)
)


def test_names_come_from_serving_and_tasks() -> None:
    """Every place of a plan that names a secret is found."""
    task = make_task(
        judge={"api_key_env": "JUDGE_KEY"},
        list=[{"api_key_env": "OTHER"}],
        pass_env=["PROGRAMS_KEY"],
    )
    names = required_secrets(make_plan(task, serving=EXTERNAL))
    assert names == ("EXTRA", "JUDGE_KEY", "OTHER", "PROGRAMS_KEY", "PROVIDER_KEY")


def test_a_secret_that_is_not_set_is_named() -> None:
    """The error names the variables that are missing or empty, and no value."""
    with pytest.raises(RecipeError, match="EXTRA, PROVIDER_KEY not set") as caught:
        collect_secrets(make_plan(serving=EXTERNAL), {"PROVIDER_KEY": "", "OTHER": "hidden"})
    assert "hidden" not in str(caught.value)


def test_the_hub_token_travels_when_it_is_set() -> None:
    """HF_TOKEN is never required."""
    assert collect_secrets(make_plan(), {}) == {}
    assert collect_secrets(make_plan(), {"HF_TOKEN": "t", "X": "y"}) == {"HF_TOKEN": "t"}


def test_the_file_is_the_owners_and_outside_the_run(tmp_path: Path) -> None:
    """Mode 0600 in a folder of mode 0700 beside the runs; removed without a trace."""
    folder = RunFolder(tmp_path / "runs" / "demo")
    folder.root.mkdir(parents=True)
    plan = make_plan(serving=VllmServing(secrets=("KEY",)))
    path = secrets_file(folder, plan)
    write_secrets(path, {"KEY": "value"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert folder.root not in path.parents
    assert read_secrets(path, plan) == {"KEY": "value"}
    remove_secrets(path)
    remove_secrets(path)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["demo"]


def test_the_folder_stays_while_other_runs_need_it(tmp_path: Path) -> None:
    """Removing one run's secrets leaves another's."""
    mine, other = tmp_path / ".secrets" / "a.json", tmp_path / ".secrets" / "b.json"
    write_secrets(mine, {"A": "1"})
    write_secrets(other, {"B": "2"})
    remove_secrets(mine)
    assert other.exists()


def test_a_job_without_its_secrets_says_so(tmp_path: Path) -> None:
    """A required secret that is not in the file is an error; a run without secrets needs no file."""
    with pytest.raises(ClusterError, match="no value for KEY") as caught:
        read_secrets(tmp_path / "none.json", make_plan(serving=VllmServing(secrets=("KEY",))))
    assert "evalkit submit" in (caught.value.hint or "")
    assert read_secrets(tmp_path / "none.json", make_plan()) == {}
    (tmp_path / "torn.json").write_text('{"KEY"')
    with pytest.raises(ClusterError, match="cannot read"):
        read_secrets(tmp_path / "torn.json", make_plan())
