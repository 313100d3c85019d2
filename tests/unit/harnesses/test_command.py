"""A command for real: a program of a few lines with OpenAI's client, in two shards."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.benchmarks.contract import Answered
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.native import NativeMetric, NativeResult
from evalkit.benchmarks.registry import make_benchmark
from evalkit.errors import InfraError, RecipeError, ScorerError
from evalkit.harnesses.command_reading import combine, read_results
from evalkit.harnesses.command_results import Results
from evalkit.recipe.schema import DataOverride
from tests.unit.harnesses.driving import KEY, FakeModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROGRAM = """
import json, os, sys
import openai
import beside

model, shard, shards, limit = sys.argv[1], *map(int, sys.argv[2:5])
client = openai.OpenAI(max_retries=0)
lines = []
for number in range(limit)[shard::shards]:
    said = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": beside.question(number)}]
    ).choices[0].message.content
    lines.append({"name": number, "asked": beside.question(number), "said": said, "right": said == str(number + 1)})
with open("answers.jsonl", "w") as file:
    file.writelines(json.dumps(line) + "\\n" for line in lines)
with open("result.json", "w") as file:
    right = [line["right"] for line in lines]
    json.dump({"all": {"share": sum(right) / len(right), "n": len(right)}}, file)
assert "SECRET_OF_MINE" not in os.environ
"""
BESIDE = "def question(number):\n    return f'What is {number} + 1?'\n"
COMMAND = ["{python}", "{recipe}/program.py", "{model}", "{shard}", "{shards}"]
METRICS = {"file": "result.json", "metrics": {"share": "all.share"}, "weight": "all.n"}
SAMPLES = {
    "file": "answers.jsonl",
    "id": "name",
    "scores": {"right": "right"},
    "messages": "asked",
    "content": "said",
}


def make(**changes: Any) -> Any:
    params = {"command": COMMAND, "with_limit": ["{limit}"], "results": METRICS} | changes
    return make_benchmark("command", params, "card")


def load(benchmark: Any, folder: Path, limit: int | None = 5) -> Sequence[Any]:
    return benchmark.load(DataAccess("mine", DataOverride(), folder, limit)).samples


def small_sums(body: dict[str, Any], before: int) -> str:
    """Right below 3."""
    number = int(re.search(r"\d+", str(body["messages"]))[0])
    return str(number + 1) if number < 3 else "many"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[Answered]]]:
    """Both shards of the program, run: three questions and two."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "beside.py").write_text(BESIDE)
    benchmark = make(shards=2)
    model = FakeModel(folder, small_sums)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_MINE", "x")
        samples = load(benchmark, folder)
        yield (
            folder,
            [Answered(s, 0, asyncio.run(benchmark.solve(s, model)), None) for s in samples],
        )


@pytest.mark.parametrize(
    ("results", "name"),
    [
        (METRICS, "share"),
        ({"samples": SAMPLES}, "right"),
        (
            {**METRICS, "weight": None, "metrics": {"right": "all.share"}, "samples": SAMPLES},
            "right",
        ),
    ],
)
def test_two_shards(
    answered: tuple[Path, list[Answered]], tmp_path: Path, results: dict[str, Any], name: str
) -> None:
    """The number is the mean over all five questions, not that of the two means."""
    folder, answers = answered
    result = make(shards=2, results=results).conclude(answers, folder, tmp_path)
    assert result.headline == ("", name)
    assert [(m.name, m.value) for m in result.metrics] == [(name, pytest.approx(3 / 5))]
    assert (result.n_samples, result.versions) == (5, {"program": "1"})
    assert (tmp_path / "001" / "program.log").is_file()
    if result.samples:
        assert [s.id for s in result.samples] == ["0", "2", "4", "1", "3"]
        assert result.samples[0].messages == [{"role": "user", "content": "What is 0 + 1?"}]
        assert (result.samples[2].content, result.samples[2].scores) == ("many", {"right": 0.0})


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "echo out of luck; exit 3",
            "bash failed (exit code 3); last lines of 000/program.log:\nout of luck",
        ),
        ("true", "0 files match 'result.json'; the output folder holds program.log"),
        ("echo '{\"all\": {}}' > result.json", "there is no all.share; at the top there is all"),
        ('echo \'{"all": {"share": null}}\' > result.json', "there is no all.share"),
        ('echo \'{"all": {"share": "0.5"}}\' > result.json', "all.share is '0.5', not a number"),
        ("echo '{\"all\"' > result.json", "cannot read result.json"),
        ("kill -9 $$", "bash failed (exit code 137 (SIGKILL))"),
    ],
)
def test_what_fails_is_owed(tmp_path: Path, command: str, said: str) -> None:
    """Whatever is wrong ends the unit as ours, with what the command said; nothing becomes 0."""
    results = {**METRICS, "weight": None}
    benchmark = make(command=command, shell=True, results=results)  # noqa: S604 - of a recipe
    [sample] = load(benchmark, tmp_path, None)
    with pytest.raises(InfraError, match=re.escape(said)):
        asyncio.run(benchmark.solve(sample, FakeModel(tmp_path, small_sums)))


def test_places(tmp_path: Path) -> None:
    """Places are filled in, quoted for a shell; braces of a shell or of JSON stay."""
    text = """echo "{{model}} ${HOME:+home} {model} $KEY $OPENAI_API_KEY {\\"a\\": 1}" > said; echo '{"all": {"share": 1}}' > result.json"""
    benchmark = make(  # noqa: S604 - a parameter of a recipe
        command=text,
        shell=True,
        env={"KEY": "{api_key}/{model}"},
        results={**METRICS, "weight": None},
    )
    [sample] = load(benchmark, tmp_path, None)
    solution = asyncio.run(benchmark.solve(sample, FakeModel(tmp_path, small_sums)))
    said = (tmp_path / solution.data["folder"] / "said").read_text()
    assert said == f'{{model}} home tiny {KEY}/tiny {KEY} {{"a": 1}}\n'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"command": ["x", "{modle}"]}, "{modle} is none of {api_key}, {base_url}"),
        ({"command": "x"}, "shell: true takes a command that is one text"),
        ({"command": ["x"], "shards": 2}, "there is no {shard} in the command"),
        ({"with_limit": ["-n"]}, "with_limit has no {limit}"),
        (
            {"shards": 2, "results": {**METRICS, "weight": None}},
            "the parts of 'share' become one number",
        ),
        ({"results": {}}, "give metrics, samples or parser"),
        ({"results": {**METRICS, "metrics": {"a": "b["}}}, "'b[' is no JMESPath expression"),
        ({"results": {**METRICS, "headline": "x"}}, "headline: 'x' is none of share"),
        ({"results": {**METRICS, "parser": "a:b"}}, "file has no effect beside parser"),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    """What cannot work is refused when it is read."""
    with pytest.raises(RecipeError, match=re.escape(said)):
        make(**changes)


def test_a_limit_needs_arguments(tmp_path: Path) -> None:
    """A limit without an effect is refused."""
    with pytest.raises(RecipeError, match="cannot shorten what a command does by itself"):
        load(make(with_limit=[]), tmp_path)


def test_no_more_shards_than_items(tmp_path: Path) -> None:
    """A limit below the number of shards leaves none without an item."""
    command = ["{python}", "ask.py", "{shard}", "{shards}"]
    metrics = {"file": "r.json", "metrics": {"right": "right"}, "weight": "n"}
    benchmark = make(command=command, shards=4, results=metrics)
    for limit, shards in ((2, 2), (9, 4), (None, 4)):
        samples = load(benchmark, tmp_path, limit)
        assert [each.data["shard"] for each in samples] == list(range(shards))
        assert {each.data["shards"] for each in samples} == {shards}


def write_part(folder: Path, share: float, *names: str) -> NativeResult:
    """A shard whose first sample is right and whose others are not, as `read_results` reads it."""
    folder.mkdir()
    lines = [{"name": name, "right": name == names[0]} for name in names]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "result.json").write_text(json.dumps({"share": share}))
    samples = {"file": "answers.jsonl", "id": "name", "scores": {"share": "right"}}
    spec = {"file": "result.json", "metrics": {"share": "share"}, "samples": samples}
    return read_results(Results.model_validate(spec), folder)


def test_shards_that_did_the_same(tmp_path: Path) -> None:
    """A command that takes no notice of its part would count its answers twice."""
    parts = [write_part(tmp_path / name, 0.5, "a", "b") for name in ("one", "two")]
    with pytest.raises(
        ScorerError, match=r"2 answers are there more than once, the first is .* 'a'"
    ):
        combine(parts)


def test_shards_with_numbers_of_their_own(tmp_path: Path) -> None:
    """The mean over all samples counts; where a shard's file says otherwise, that is told."""
    parts = [write_part(tmp_path / "one", 0.5, "a", "b"), write_part(tmp_path / "two", 0.9, "c")]
    found = combine(parts)
    assert found.metrics[0].value == pytest.approx(2 / 3)
    assert found.problems == [
        "shard 1 says share = 0.9, the mean of its samples, which counts, is 1"
    ]


def test_parser(tmp_path: Path) -> None:
    """A function reads the folder; what it raises is no score."""
    spec = Results(parser=f"{__name__}:parse_folder")
    (tmp_path / "n").write_text("4")
    assert read_results(spec, tmp_path).metrics[0].value == 4.0
    (tmp_path / "n").write_text("four")
    with pytest.raises(ScorerError, match="could not convert string to float"):
        read_results(spec, tmp_path)
    (tmp_path / "n").write_text("nan")
    with pytest.raises(ScorerError, match=r"parse_folder: n is nan"):
        read_results(spec, tmp_path)


def parse_folder(folder: Path) -> dict[str, Any]:
    """What a user's own parser may look like."""
    value = float((folder / "n").read_text())
    metric = {"subset": "", "name": "n", "value": value, "n_samples": 10}
    return {"metrics": [metric], "headline": ["", "n"]}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=6))
def test_combined_is_the_mean_of_all(shards: list[tuple[int, int]]) -> None:
    """Shares of shards, weighted by their samples, are the share of all samples."""
    parts = [
        NativeResult(
            metrics=[NativeMetric(subset="", name="x", value=right / n, n_samples=n)],
            headline=("", "x"),
            versions={},
            n_samples=n,
        )
        for right, n in shards
    ]
    whole = combine(parts)
    assert whole.metrics[0].value == pytest.approx(
        sum(right for right, _ in shards) / sum(n for _, n in shards)
    )
    assert whole.n_samples == sum(n for _, n in shards)


def test_samples_need_all_shards() -> None:
    """A shard that lacks a metric is no shard without samples."""
    part = NativeResult([NativeMetric(subset="", name="x", value=1)], ("", "x"), {})
    lacking = NativeResult([], ("", "x"), {})
    with pytest.raises(ScorerError, match="1 of 2 shards have no x"):
        combine([part, lacking])
    with pytest.raises(ScorerError, match="not all shards say"):
        combine([part, part])


def test_yaml_and_lines(tmp_path: Path) -> None:
    """YAML is read like JSON; answers to the same id are repeats in their order."""
    (tmp_path / "r.yml").write_text("score: 0.5\n")
    (tmp_path / "s.jsonl").write_text(
        "".join(json.dumps({"id": 7, "ok": ok}) + "\n" for ok in (1, 0))
    )
    spec = {
        "file": "*.yml",
        "metrics": {"m": "score"},
        "samples": {"file": "s.jsonl", "scores": {"m": "ok"}},
    }
    found = read_results(Results.model_validate(spec), tmp_path)
    assert [(s.id, s.repeat, s.scores) for s in found.samples] == [
        ("7", 0, {"m": 1.0}),
        ("7", 1, {"m": 0.0}),
    ]
    assert (found.n_samples, found.repeats, found.metrics[0].value) == (1, 2, 0.5)
