"""Groups, the order they are laid over each other in, and references."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from evalkit.errors import RecipeError
from evalkit.recipe.document import get
from evalkit.recipe.nemo.compose import compose, is_nemo, refuse_rewrite
from tests.unit.recipe.nemo.launcher import NEMO, composed, document, hosted

CONFIGS = NEMO / "launcher_configs"
GROUPS = [
    "execution/local",
    "execution/slurm/default",
    *(f"deployment/{name}" for name in ("none", "vllm", "sglang", "nim", "trtllm", "generic")),
]
COMMANDS = ("command", "base_command")
"""Given as the arguments that count, not word by word."""


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_the_launchers(group: str) -> None:
    """Keys and defaults of our file are those of the published one."""
    name, _, option = group.partition("/")
    ours = compose(document({"defaults": [{name: option}]})).data[name]
    theirs = yaml.safe_load((CONFIGS / f"{group}.yaml").read_text("utf-8"))
    assert [key for key in theirs if key not in ours] == []
    plain = {key: value for key, value in ours.items() if key not in COMMANDS}
    assert plain == {key: value for key, value in theirs.items() if key not in COMMANDS}


def test_vllm_ray_is_vllm_and_more() -> None:
    """The group that extends another one has all of it."""
    plain = compose(document({"defaults": [{"deployment": "vllm"}]})).data["deployment"]
    ray = compose(document({"defaults": [{"deployment": "vllm_ray"}]})).data["deployment"]
    differing = {key for key in ray if ray[key] != plain.get(key)}
    assert differing == {"distributed_executor_backend", "env_vars", "command"}


def test_the_file_wins_where_it_stands() -> None:
    """`_self_` in front of a group is laid over by it; without `_self_` the file comes last."""
    own = {"execution": {"mode": "parallel", "output_dir": "x"}}
    first = compose(document({"defaults": ["_self_", {"execution": "local"}], **own}))
    assert first.data["execution"]["mode"] == "sequential"
    for defaults in ([{"execution": "local"}, "_self_"], [{"execution": "local"}]):
        last = compose(document({"defaults": defaults, **own}))
        assert last.data["execution"]["mode"] == "parallel"
        assert last.data["execution"]["endpoint_readiness_timeout"] == 600
        assert last.where(("execution", "mode")) == "file.yaml:1"


def test_lists_replace_and_mappings_merge() -> None:
    """As in Hydra."""
    data = hosted("a")
    data["execution"] = {"output_dir": "x", "sbatch_extra_flags": {"qos": "high"}}
    data["defaults"][0] = {"execution": "slurm/default"}
    found = compose(document(data)).data
    assert found["execution"]["sbatch_extra_flags"] == {"exclusive": True, "qos": "high"}
    assert found["evaluation"]["tasks"] == [{"name": "a"}]


def test_a_group_can_go_elsewhere() -> None:
    """An auxiliary deployment has the group's defaults below its own name."""
    data = {"defaults": ["deployment/vllm@auxiliary_deployments.judge"], "execution": {}}
    found = compose(document(data)).data
    assert found["auxiliary_deployments"]["judge"]["tensor_parallel_size"] == 8
    assert "deployment" not in found


def test_without_defaults_a_file_is_taken_as_it_is() -> None:
    """One that was composed before."""
    data = {"execution": {"type": "local"}, "evaluation": {"tasks": []}}
    assert compose(document(data)).data == data


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ([{"deployment": "vlm"}], r"no group deployment/vlm\. Did you mean 'deployment/vllm'\?"),
        ("local", "expected a list of groups"),
        ([["a"]], "expected GROUP: OPTION"),
    ],
)
def test_groups_that_are_not_there(defaults: Any, words: str) -> None:
    """The error has the line, the nearest and all groups."""
    with pytest.raises(RecipeError, match=words) as caught:
        compose(document({"defaults": defaults}))
    assert str(caught.value).startswith("file.yaml:1 defaults")


def test_recognised_by_its_keys() -> None:
    """Recipes are not the launcher's, whatever else they hold; its rewrite is refused."""
    assert is_nemo(hosted())
    assert is_nemo({"evaluation": {}})
    assert not is_nemo({"tasks": {}, "evaluation": {}})
    assert not is_nemo({"name": "x"})
    assert not is_nemo(["evaluation"])
    with pytest.raises(RecipeError, match=r"0\.3 or later"):
        refuse_rewrite({"services": {"m": {}}, "benchmarks": [{}]}, "f.yaml")


def value_of(text: Any, **env: str) -> Any:
    """What a value reads as, beside `a: {b: 3, c: null, d: [x, y]}`."""
    data = {"execution": {"v": text}, "a": {"b": 3, "c": None, "d": ["x", "y"], "e": "${a.b}"}}
    source = composed(data, **env)
    found = source.get("execution", "v")
    assert source.problems == []
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${a.b}", 3),
        ("x-${a.b}-${a.d.1}", "x-3-y"),
        ("${a.e}", 3),
        ("${oc.env:NAME}", "n"),
        ("${oc.env:OTHER,none}", "none"),
        ("${select_not_null:a.c,a.b}", 3),
        ("${select_not_null:a.c,/checkpoint}", "/checkpoint"),
        ("${select_not_null:a.zzz,7}", 7),
        ("${select_not_null:a.c,a.zzz}", None),
        ("${select_not_null:a.c,${a.b}}", 3),
        (["${a.b}", {"k": "${a.b}"}], [3, {"k": 3}]),
        ("plain $HOME {x}", "plain $HOME {x}"),
    ],
)
def test_references(text: Any, value: Any) -> None:
    """The three kinds, alone with their type, inside of text, and inside of each other."""
    assert value_of(text, NAME="n") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${a.bb}", r"\$\{a\.bb\}: there is no such key\. Did you mean 'a\.b'\?"),
        ("${oc.env:NO}", "the environment variable NO is not set"),
        ("${now:%Y}", "there is no resolver 'now'"),
        ("${a.b", "a reference that is not closed"),
        ("${execution.v}", r"refers to itself: execution\.v -> execution\.v"),
    ],
)
def test_references_that_lead_nowhere(text: str, words: str) -> None:
    """Each is a problem at its own key, and reading goes on."""
    source = composed({"execution": {"v": text}, "a": {"b": 3}})
    source.get("execution", "v")
    [problem] = source.problems
    assert problem.path == ("execution", "v")
    assert re.search(words, problem.text)


def test_a_value_that_is_not_read_is_not_resolved() -> None:
    """A variable that only an ignored key asks for may be missing."""
    source = composed({"execution": {"username": "${oc.env:NO}", "output_dir": "x"}})
    assert source.get("execution", "output_dir") == "x"
    assert source.problems == []


def test_required_values_are_told_once_where_they_are_read() -> None:
    """A `???` is null to its reader."""
    source = composed({"execution": {"output_dir": "???", "list": [{"k": "???"}]}})
    assert source.get("execution", "output_dir") is None
    assert source.get("execution", "output_dir") is None
    assert source.get("execution", "list") == [{"k": None}]
    assert [problem.path for problem in source.problems] == [
        ("execution", "output_dir"),
        ("execution", "list", 0, "k"),
    ]
    assert "-o execution.list.0.k=VALUE" in source.problems[1].text


def test_given_is_what_the_file_says() -> None:
    """Defaults of groups are no wish of the user's."""
    source = composed(hosted())
    assert source.is_given("execution", "output_dir")
    assert not source.is_given("execution", "mode")
    assert get(source.document.data, ("execution", "mode")) == "sequential"
