"""Reading a command's numbers out of its files, and making one result of several shards."""

from __future__ import annotations

import math
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

import jmespath
import orjson

from evalkit.benchmarks.native import NativeMetric, NativeResult, NativeSample
from evalkit.errors import EvalkitError, ScorerError
from evalkit.recipe.yaml_text import parse_yaml
from evalkit.store.records import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from evalkit.harnesses.command_results import Results, SampleFields

SAME = 1e-9
"""Between a number of a file and the mean of the same scores."""
SHOWN = 12
"""Files that an error names."""
PARSER_BUGS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What somebody else's function raises when it cannot read a folder."""


def result_files(spec: Results, folder: Path) -> list[Path]:
    """The files that the numbers are read from; those that a parser reads are its own affair."""
    patterns = [spec.file, spec.samples.file if spec.samples else None]
    return [path for pattern in patterns if pattern for path in sorted(folder.glob(pattern))]


def read_results(spec: Results, folder: Path) -> NativeResult:
    """What one run of the command found. Raises ScorerError for whatever is not there or no number."""
    if spec.parser is not None:
        return _checked(spec.parser, _parse(spec.parser, folder))
    samples = list(_samples(spec.samples, folder)) if spec.samples else []
    if spec.samples is not None and not samples:
        raise ScorerError(f"results.samples: {spec.samples.file} has no samples")
    _refuse_equal(samples)
    metrics = _metrics(spec, folder) if spec.file else list(_means(samples))
    items = {(sample.subset, sample.id) for sample in samples}
    repeats = Counter((sample.subset, sample.id) for sample in samples)
    return NativeResult(
        metrics=metrics,
        headline=("", spec.first()),
        versions={},
        samples=samples,
        n_samples=len(items) or metrics[0].n_samples,
        repeats=min(repeats.values(), default=1),
    )


def combine(parts: Sequence[NativeResult]) -> NativeResult:
    """One result of those of all shards: each metric is the mean over all their samples.

    Raises ScorerError where a shard lacks a metric, or its number of samples, and where two shards have the
    same sample: then each did more than its part.
    """
    if len(parts) == 1:
        return parts[0]
    samples = [sample for part in parts for sample in part.samples]
    _refuse_equal(samples)
    names = [(metric.subset, metric.name) for metric in parts[0].metrics]
    counts = [part.n_samples for part in parts]
    known = [count for count in counts if count is not None]
    return NativeResult(
        metrics=[_combined(name, parts) for name in names],
        headline=parts[0].headline,
        versions=parts[0].versions,
        samples=samples,
        n_samples=sum(known) if len(known) == len(counts) else None,
        repeats=min(part.repeats for part in parts),
        problems=[
            *(problem for part in parts for problem in part.problems),
            *(text for number, part in enumerate(parts) for text in _other_means(number, part)),
        ],
    )


def _refuse_equal(samples: Sequence[NativeSample]) -> None:
    counts = Counter((sample.subset, sample.id, sample.repeat) for sample in samples)
    several = [key for key, count in counts.items() if count > 1]
    if several:
        _, name, repeat = several[0]
        raise ScorerError(
            f"{len(several)} answers are there more than once, the first is answer {repeat} to {name!r}",
            hint="Each shard must do its {shard} of {shards} alone, and ids must be those of the whole task.",
        )


def _other_means(number: int, part: NativeResult) -> Iterator[str]:
    """Numbers of a shard's file that its samples' scores, which count, do not give."""
    for metric in part.metrics:
        values = [_score(sample, metric) for sample in part.samples]
        known = [value for value in values if value is not None]
        if known and not math.isclose(
            mean := math.fsum(known) / len(known), metric.value, abs_tol=SAME
        ):
            yield (
                f"shard {number} says {metric.name} = {metric.value:g}, the mean of its samples, which "
                f"counts, is {mean:g}"
            )


def _score(sample: NativeSample, metric: NativeMetric) -> float | None:
    is_of = not metric.subset or (sample.subset or "") == metric.subset
    return sample.scores.get(metric.name) if is_of else None


def _combined(name: tuple[str, str], parts: Sequence[NativeResult]) -> NativeMetric:
    found = [next((m for m in part.metrics if (m.subset, m.name) == name), None) for part in parts]
    metrics = [metric for metric in found if metric is not None]
    if len(metrics) != len(parts):
        raise ScorerError(f"{len(parts) - len(metrics)} of {len(parts)} shards have no {name[1]}")
    scored = [
        [s.scores.get(name[1]) for s in part.samples if (s.subset or "") == name[0] or not name[0]]
        for part in parts
    ]
    values = [value for part in scored for value in part if value is not None]
    if all(scored) and len(values) == sum(map(len, scored)):
        return NativeMetric(
            subset=name[0],
            name=name[1],
            value=math.fsum(values) / len(values),
            higher_is_better=metrics[0].higher_is_better,
        )
    weights = [metric.n_samples for metric in metrics if metric.n_samples]
    if len(weights) != len(parts):
        raise ScorerError(f"not all shards say of how many samples their {name[1]} is")
    weighted = (metric.value * weight for metric, weight in zip(metrics, weights, strict=True))
    return NativeMetric(
        subset=name[0],
        name=name[1],
        value=math.fsum(weighted) / sum(weights),
        n_samples=sum(weights),
        higher_is_better=metrics[0].higher_is_better,
    )


def _metrics(spec: Results, folder: Path) -> list[NativeMetric]:
    found = sorted(folder.glob(spec.file or ""))
    if len(found) != 1:
        names = sorted(path.name for path in folder.iterdir())[:SHOWN]
        raise ScorerError(
            f"results.file: {len(found)} files match {spec.file!r}; the output folder holds "
            f"{', '.join(names)}"
        )
    document = _read(found[0])
    weight = None if spec.weight is None else _number(document, "weight", spec.weight)
    if weight is not None and (weight < 1 or not weight.is_integer()):
        raise ScorerError(f"results.weight is {weight}, no number of samples")
    return [
        NativeMetric(
            subset="",
            name=name,
            value=_number(document, f"metrics.{name}", path),
            stderr=_number(document, f"stderr.{name}", spec.stderr[name])
            if name in spec.stderr
            else None,
            n_samples=None if weight is None else int(weight),
        )
        for name, path in spec.metrics.items()
    ]


def _read(path: Path) -> Any:
    try:
        if path.suffix in (".yml", ".yaml"):
            return parse_yaml(path.read_text("utf-8"), path.name).data
        return orjson.loads(path.read_bytes())
    except (OSError, ValueError, EvalkitError) as error:
        raise ScorerError(f"results.file: cannot read {path.name}: {error}") from error


def _number(document: Any, what: str, path: str) -> float:
    value = jmespath.search(path, document)
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    if value is not None:
        raise ScorerError(f"results.{what}: {path} is {str(value)[:80]!r}, not a number")
    keys = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
    raise ScorerError(f"results.{what}: there is no {path}; at the top there is {keys[:400]}")


def _means(samples: Sequence[NativeSample]) -> Iterator[NativeMetric]:
    """Scores are in each sample, so their means are of all."""
    for name in samples[0].scores:
        values = [sample.scores[name] for sample in samples]
        yield NativeMetric(subset="", name=name, value=math.fsum(values) / len(values))


def _samples(fields: SampleFields, folder: Path) -> Iterator[NativeSample]:
    seen: Counter[tuple[str | None, str]] = Counter()
    for path in sorted(folder.glob(fields.file)):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ScorerError(f"{where}: not JSON: {error}") from error
            sample = _sample(fields, row, where, seen)
            seen[sample.subset, sample.id] += 1
            yield sample


def _sample(
    fields: SampleFields, row: Any, where: str, seen: Mapping[tuple[str | None, str], int]
) -> NativeSample:
    def get(path: str | None) -> Any:
        return None if path is None else jmespath.search(path, row)

    def text(path: str | None) -> str | None:
        value = get(path)
        return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()

    name, subset = text(fields.id), text(fields.subset)
    if not name:
        raise ScorerError(f"{where}: there is no {fields.id}")
    asked = get(fields.messages)
    repeat = get(fields.repeat) if fields.repeat else seen[subset, name]
    if not isinstance(repeat, int):
        raise ScorerError(f"{where}: {fields.repeat} is {repeat!r}, not a whole number")
    content = text(fields.content)
    return NativeSample(
        id=name,
        repeat=repeat,
        scores={n: _number(row, f"samples.scores.{n}", path) for n, path in fields.scores.items()},
        subset=subset,
        messages=[{"role": "user", "content": asked}] if isinstance(asked, str) else asked or (),
        content=content or "",
        answer=text(fields.answer),
        target=get(fields.target),
        outcome=Outcome.EMPTY if fields.content and not content else Outcome.OK,
    )


def _checked(parser: str, found: NativeResult) -> NativeResult:
    """Raises ScorerError for what could be no result: now, while the unit can be done again."""
    if found.headline not in [(metric.subset, metric.name) for metric in found.metrics]:
        raise ScorerError(
            f"results.parser {parser}: headline {found.headline} is none of its metrics"
        )
    for metric in found.metrics:
        if not math.isfinite(metric.value):
            raise ScorerError(f"results.parser {parser}: {metric.name} is {metric.value}")
    _refuse_equal(found.samples)
    return found


def _parse(parser: str, folder: Path) -> NativeResult:
    """What a function of somebody else makes of a folder. Raises ScorerError for all that goes wrong."""
    module, _, name = parser.partition(":")
    try:
        function: Callable[[Path], Any] = getattr(import_module(module), name)
        said = function(folder)
        if isinstance(said, NativeResult):
            return said
        return NativeResult(
            **{
                **said,
                "metrics": [NativeMetric(**each) for each in said["metrics"]],
                "headline": tuple(said["headline"]),
                "versions": said.get("versions", {}),
                "samples": [NativeSample(**each) for each in said.get("samples", ())],
            }
        )
    except PARSER_BUGS as error:
        raise ScorerError(f"results.parser {parser}: {type(error).__name__}: {error}") from error
