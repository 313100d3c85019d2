"""From the scores of all units of a task to its metrics, under the field's own names.

Modes and quirks are those of NeMo-Skills, so that numbers compare: ``pass@k`` uses every repeat for
0/1 scores and the best of the first k for others (so ``pass@1`` of a count is the first repeat
alone, and the headline is always ``pass@1[avg-of-k]``); a majority counts (answer, score) pairs.
Values are fractions, not percent. It refuses items with different numbers of repeats: what is
missing is the gather's affair and must be settled before.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

from evalkit.report import statistics as st

NO_ANSWER = "no_answer"
SMALL_SAMPLE = 300
"""Below this number of items the interval is Wilson's with an effective n (Bowyer et al. 2025)."""
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class RepeatScores:
    """What one unit scored."""

    answer: str | None
    """The extracted answer; null counts as no answer."""
    values: Mapping[str, float]
    """Score by name."""


@dataclass(frozen=True, slots=True)
class ItemScores:
    """All repeats of one item, in repeat order."""

    item: str
    repeats: Sequence[RepeatScores]
    subset: str | None = None
    cluster: str | None = None
    """Items of one cluster are not independent."""


@dataclass(frozen=True, slots=True)
class ScoreStatistics:
    """``pass@1[avg-of-k]`` of one score and how sure it is; null where the data cannot tell."""

    avg: float
    std_dev_across_runs: float | None
    std_err_across_runs: float | None
    avg_sample_std_dev: float | None
    se_items_clustered: float | None
    """Other items of the same kind."""
    se_sampling_fixed_items: float | None
    """The same items answered again."""
    se_binomial_upper: float | None
    """Null where the score is not a fraction of its weight."""
    interval: st.Interval | None
    """For other items of the same kind, at `level`."""
    interval_method: str | None
    """`wilson, effective n = ...`, or `normal`."""
    level: float = LEVEL


@dataclass(frozen=True, slots=True)
class Aggregate:
    """All metrics of a task or of one of its subsets."""

    n_items: int
    repeats: int
    metrics: Mapping[str, Mapping[str, float]]
    """Mode (``pass@1[avg-of-8]``, ``majority@8``, ...) -> score name or `no_answer` -> value."""
    statistics: Mapping[str, ScoreStatistics]
    """Score name -> statistics over all repeats."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Name of a weight -> its sum over the items (number of steps, of instructions)."""
    subsets: Mapping[str, "Aggregate"] = field(default_factory=dict)


def headline_mode(repeats: int) -> str:
    """The mode a headline is quoted in: ``pass@1``, or ``pass@1[avg-of-k]`` for several repeats."""
    return "pass@1" if repeats == 1 else f"pass@1[avg-of-{repeats}]"


def exported_name(task: str, mode: str, score: str) -> str:
    """The metric's name in other tools: ``aime_pass_at_1_avg-of-64_symbolic_correct``."""
    flat = mode.replace("@", "_at_").replace("[", "_").replace("]", "")
    return f"{task}_{flat}_{score}"


def prefix_lengths(repeats: int) -> list[int]:
    """The k for which modes are given: powers of two up to the number of repeats, and that number."""
    powers = [2**e for e in range(repeats.bit_length()) if 2**e < repeats]
    return [*powers, repeats]


CALIBRATION_ERROR = "calibration_error"
CALIBRATION_ERROR_OFFICIAL = "calibration_error_without_last_bin"
"""As the program of the authors of Humanity's Last Exam computes it, whose loop ends one bin early."""
CALIBRATION_BIN = 100


@dataclass(frozen=True, slots=True)
class SubsetSums:
    """Metrics that are weighted sums of one score's metric over subsets."""

    score: str
    weigh: Callable[[Mapping[str, float]], Mapping[str, Mapping[str, float]]]
    """From the number of items (or of parts, where the score counts those) of each subset to the
    weight of each subset, by metric."""


def aggregate_scores(
    items: Sequence[ItemScores],
    *,
    weights: Mapping[str, str] | None = None,
    means: Mapping[str, Sequence[str]] | None = None,
    sums: SubsetSums | None = None,
    calibration: tuple[str, str] | None = None,
    votes: bool = True,
) -> Aggregate:
    """Metrics over all items, and the same for each subset.

    ``weights`` names, for a score that counts parts of an item, the score that says how many parts
    there are (``{"subtask_accuracy": "num_subtasks"}``): its value must be the same in all repeats,
    and the metric is the sum of counts over the sum of parts. ``means`` names, for a metric that is
    the mean of others, their scores; an item has no score of its own for it, so it has no statistics.
    ``sums`` makes metrics of the subsets'; their errors are those of a sum of independent estimates.
    ``calibration`` names a score of right or wrong and one of the confidence that was stated: the
    metric `calibration_error` of all repeats is made of them, and where there are two bins or more
    `calibration_error_without_last_bin`. Without ``votes`` there is no majority.
    Raises ValueError, naming the item, where repeats or score names differ between items, and where
    there are no items.
    """
    weights, means = weights or {}, means or {}
    _check(items, weights)
    _check_means(means, items[0].repeats[0].values.keys() - set(weights.values()))
    subsets: dict[str, list[ItemScores]] = defaultdict(list)
    for item in items:
        if item.subset is not None:
            subsets[item.subset].append(item)
    parts = {
        name: _aggregate(part, weights, means, {}, votes=votes)
        for name, part in sorted(subsets.items())
    }
    whole = _aggregate(items, weights, means, parts, votes=votes)
    if calibration is not None:
        whole = _with_calibration(whole, items, *calibration)
    return whole if sums is None else _with_sums(whole, sums, weights.get(sums.score))


def _with_calibration(
    whole: Aggregate, items: Sequence[ItemScores], right: str, confidence: str
) -> Aggregate:
    """With the calibration error over all answers."""
    if missing := {right, confidence} - whole.statistics.keys():
        raise ValueError(f"calibration names {sorted(missing)}; scores: {sorted(whole.statistics)}")
    values = [repeat.values for item in items for repeat in item.repeats]
    error = partial(
        st.calibration_error,
        [each[confidence] for each in values],
        [each[right] for each in values],
        bin_size=CALIBRATION_BIN,
    )
    modes = {mode: dict(metrics) for mode, metrics in whole.metrics.items()}
    metrics = modes[headline_mode(whole.repeats)]
    metrics[CALIBRATION_ERROR] = error()
    if len(values) >= 2 * CALIBRATION_BIN:
        metrics[CALIBRATION_ERROR_OFFICIAL] = error(without_last=True)
    return replace(whole, metrics=modes)


def _with_sums(whole: Aggregate, sums: SubsetSums, weight: str | None) -> Aggregate:
    """With the metrics of ``sums``, and their statistics."""
    totals = {
        name: part.n_items if weight is None else part.totals[weight]
        for name, part in whole.subsets.items()
    }
    modes = {mode: dict(metrics) for mode, metrics in whole.metrics.items()}
    statistics = dict(whole.statistics)
    for name, of in sums.weigh(totals).items():
        if name in statistics or not of or not whole.subsets.keys() >= of.keys():
            raise ValueError(f"{name!r} is no sum of {sorted(of)}; subsets: {sorted(totals)}")
        for mode, metrics in modes.items():
            metrics[name] = math.fsum(
                w * whole.subsets[subset].metrics[mode][sums.score] for subset, w in of.items()
            )
        parts = [(w, whole.subsets[subset].statistics[sums.score]) for subset, w in of.items()]
        statistics[name] = _sum_statistics(parts)
    return replace(whole, metrics=modes, statistics=statistics)


def _sum_statistics(parts: Sequence[tuple[float, ScoreStatistics]]) -> ScoreStatistics:
    """Of a weighted sum of independent estimates; runs of it are not the runs of its parts."""

    def combined(name: str) -> float | None:
        errors = [(w, getattr(stats, name)) for w, stats in parts]
        if any(error is None for _, error in errors):
            return None
        return math.sqrt(math.fsum((w * error) ** 2 for w, error in errors))

    average = math.fsum(w * stats.avg for w, stats in parts)
    clustered = combined("se_items_clustered")
    return ScoreStatistics(
        avg=average,
        std_dev_across_runs=None,
        std_err_across_runs=None,
        avg_sample_std_dev=None,
        se_items_clustered=clustered,
        se_sampling_fixed_items=combined("se_sampling_fixed_items"),
        se_binomial_upper=combined("se_binomial_upper"),
        interval=None if clustered is None else st.normal_interval(average, clustered, LEVEL),
        interval_method=None if clustered is None else "normal, weighted sum of subsets",
    )


def _check(items: Sequence[ItemScores], weights: Mapping[str, str]) -> None:
    if not items:
        raise ValueError("no items to aggregate: an empty task has no metric")
    k = len(items[0].repeats)
    names = set(items[0].repeats[0].values) if k else set()
    if not names:
        raise ValueError(f"item {items[0].item!r} has no scores")
    unknown = {name for pair in weights.items() for name in pair} - names
    if unknown:
        raise ValueError(f"weights name {sorted(unknown)}; the scores are {sorted(names)}")
    seen: set[str] = set()
    for item in items:
        if item.item in seen:
            raise ValueError(f"item {item.item!r} is there twice")
        seen.add(item.item)
        _check_item(item, k, names, weights)


def _check_means(means: Mapping[str, Sequence[str]], scores: Set[str]) -> None:
    for mean, names in means.items():
        if mean in scores or not names or not scores >= set(names):
            raise ValueError(
                f"{mean!r} is no mean of {sorted(names)}; the scores are {sorted(scores)}"
            )


def _check_item(item: ItemScores, k: int, names: set[str], weights: Mapping[str, str]) -> None:
    if len(item.repeats) != k:
        raise ValueError(f"item {item.item!r} has {len(item.repeats)} repeats, others have {k}")
    for j, repeat in enumerate(item.repeats):
        if repeat.values.keys() != names:
            raise ValueError(
                f"item {item.item!r}, repeat {j}: scores {sorted(repeat.values)}, "
                f"others have {sorted(names)}"
            )
        if not all(map(math.isfinite, repeat.values.values())):
            raise ValueError(f"item {item.item!r}, repeat {j}: a score is not a finite number")
    for weight in weights.values():
        if len({repeat.values[weight] for repeat in item.repeats}) != 1:
            raise ValueError(f"item {item.item!r}: {weight!r} differs between its repeats")


def _aggregate(
    items: Sequence[ItemScores],
    weights: Mapping[str, str],
    means: Mapping[str, Sequence[str]],
    subsets: Mapping[str, Aggregate],
    *,
    votes: bool,
) -> Aggregate:
    k = len(items[0].repeats)
    totals = {
        name: math.fsum(item.repeats[0].values[name] for item in items)
        for name in sorted(set(weights.values()))
    }
    tables = {
        name: _Table.of(items, name, weights.get(name))
        for name in items[0].repeats[0].values
        if name not in totals
    }
    answers = [tuple([repeat.answer for repeat in item.repeats]) for item in items]
    clusters = _clusters(items)
    modes = _modes(tables, answers, k, votes=votes)
    for metrics in modes.values():
        metrics |= {mean: st.mean([metrics[name] for name in of]) for mean, of in means.items()}
    return Aggregate(
        n_items=len(items),
        repeats=k,
        metrics=modes,
        statistics={name: _statistics(table, clusters) for name, table in tables.items()},
        totals=totals,
        subsets=subsets,
    )


def _clusters(items: Sequence[ItemScores]) -> list[Hashable] | None:
    """Each item's cluster, its own where it names none; null where no item names one."""
    if all(item.cluster is None for item in items):
        return None
    return [(i,) if item.cluster is None else item.cluster for i, item in enumerate(items)]


@dataclass(frozen=True, slots=True)
class _Table:
    """One score's values by item and repeat, and each item's weight.

    Rows are tuples: of a million lists the garbage collector would take as long as the sums.
    """

    scores: list[tuple[float, ...]]
    weights: list[float]

    @classmethod
    def of(cls, items: Sequence[ItemScores], name: str, weight: str | None) -> "_Table":
        scores = [tuple([float(r.values[name]) for r in item.repeats]) for item in items]
        weights = [1.0 if weight is None else item.repeats[0].values[weight] for item in items]
        return cls(scores, weights)

    def over_items(self, values: Sequence[float]) -> float:
        """The metric whose contribution of each item is given."""
        return math.fsum(values) / math.fsum(self.weights)


def _modes(
    tables: Mapping[str, _Table],
    answers: Sequence[Sequence[str | None]],
    repeats: int,
    *,
    votes: bool,
) -> dict[str, dict[str, float]]:
    modes: dict[str, dict[str, float]] = {}
    for k in prefix_lengths(repeats):
        first = [row[:k] for row in answers]
        at_all = {NO_ANSWER: st.no_answer_at_all(first)}
        modes[f"pass@{k}"] = {name: _pass(t, k) for name, t in tables.items()} | at_all
        if k == 1:
            continue
        modes[f"pass@1[avg-of-{k}]"] = {
            name: st.avg_of_k([row[:k] for row in table.scores], table.weights)
            for name, table in tables.items()
        } | {NO_ANSWER: st.no_answer(first)}
        if votes:
            modes[f"majority@{k}"] = {
                name: _majority(t, first) for name, t in tables.items()
            } | at_all
    return modes


def _pass(table: _Table, k: int) -> float:
    return table.over_items([st.item_pass_at_k(row, k) for row in table.scores])


def _majority(table: _Table, first: Sequence[Sequence[str | None]]) -> float:
    pairs = zip(first, table.scores, strict=True)
    return table.over_items([st.majority_at_k(row, scores[: len(row)]) for row, scores in pairs])


def _statistics(table: _Table, clusters: Sequence[Hashable] | None) -> ScoreStatistics:
    scores, weights = table.scores, table.weights
    repeated = len(scores[0]) > 1
    p = st.avg_of_k(scores, weights)
    several = len(scores if clusters is None else set(clusters)) > 1
    clustered = st.se_items_clustered(scores, weights, clusters) if several else None
    interval, method = _interval(table, p, clustered)
    return ScoreStatistics(
        avg=p,
        std_dev_across_runs=st.std_dev_across_runs(scores, weights) if repeated else None,
        std_err_across_runs=st.std_err_across_runs(scores, weights) if repeated else None,
        avg_sample_std_dev=st.avg_sample_std_dev(scores) if repeated else None,
        se_items_clustered=clustered,
        se_sampling_fixed_items=st.se_sampling_fixed_items(scores, weights) if repeated else None,
        se_binomial_upper=st.se_binomial_upper(p, _n_scores(table))
        if _is_fraction(table)
        else None,
        interval=interval,
        interval_method=method,
    )


def _interval(
    table: _Table, p: float, clustered: float | None
) -> tuple[st.Interval | None, str | None]:
    if clustered is None:
        return None, None
    if not _is_fraction(table) or len(table.scores) >= SMALL_SAMPLE:
        return st.normal_interval(p, clustered, LEVEL), "normal"
    n = st.effective_n(p, clustered, len(table.scores), round(_n_scores(table)))
    return st.wilson_interval(p, n, LEVEL), f"wilson, effective n = {n:.1f}"


def _n_scores(table: _Table) -> float:
    """How many yes-or-no decisions the metric is a mean of, if all were independent."""
    return math.fsum(table.weights) * len(table.scores[0])


def _is_fraction(table: _Table) -> bool:
    return all(
        min(row) >= 0.0 and max(row) <= weight
        for row, weight in zip(table.scores, table.weights, strict=True)
    )
