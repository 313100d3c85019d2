"""The finished units of a task as the page holds them: an index in columns, and texts in chunks.

The index is what a list shows and filters by; it is decoded at once. Texts are decoded when a unit is
opened or searched. Chunks are cut by size before they are compressed, so equal artifacts are equal bytes.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from evalkit.errors import StoreError
from evalkit.report.frames import iter_lines
from evalkit.report.page.clip import clip_unit
from evalkit.report.page.restricted import Restorer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.report.page.sources import RunReport, TaskReport

CHUNK = 256 * 1024
"""Bytes of JSON in one chunk: some milliseconds to unpack, and large enough to compress well."""
LEVEL = 4
"""Of zlib: three times as fast as 6, and 5 % larger on text and code."""
PROBES = 200
"""Units by which the size of all is estimated."""
INDEX_BYTES = 60
"""What a unit takes in the index, compressed."""
BASE64 = 4 / 3
PREVIEW = 110
SHORT = 60
TEXTS = (
    *("messages", "reasoning", "content", "answer", "target", "scores", "detail", "grading"),
    *("tool_calls", "steps", "data", "finish_reason", "usage", "calls"),
)
OPEN = ("scores", "finish_reason", "usage", "calls")
"""What may be shown of data that may not be republished: the model repeats questions in its answers."""


@dataclass(frozen=True)
class Source:
    """Units of one task of one run."""

    run: int
    """Number of the run in the report."""
    of: RunReport
    task: TaskReport
    shows_all: bool
    """Also what may not be republished."""

    @property
    def withholds(self) -> bool:
        """Texts are left out."""
        return self.task.is_restricted and not self.shows_all

    def lines(self) -> Iterator[bytes]:
        """Lines of the samples artifact. Raises StoreError."""
        return iter_lines(self.of.folder, self.task.plan.name)

    def parse(self, line: bytes) -> dict[str, Any]:
        """A line's JSON, complete where everything is shown. Raises StoreError."""
        try:
            unit: dict[str, Any] = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise StoreError(
                f"{self.of.folder.samples(self.task.plan.name)} is damaged: {error}",
                hint="`evalkit gather` makes it again.",
            ) from error
        return self._restorer.complete(unit) if self._restorer else unit

    @cached_property
    def _restorer(self) -> Restorer | None:
        shows = self.task.is_restricted and self.shows_all
        return Restorer(self.of, self.task) if shows else None


@dataclass(frozen=True, slots=True)
class Size:
    """How many units there are, and what each takes in the page, about."""

    units: int
    bytes_each: float


@dataclass(slots=True)
class Group:
    """The units of a source that the page holds."""

    source: Source
    total: int
    every: int
    """Every n-th unit was taken."""
    kept: int = 0
    cut: int = 0
    """Units with a text that was cut."""
    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: [] for name in ("id", "repeat", "outcome", "score", "tokens", "answer", "preview")
        }
    )
    chunks: list[str] = field(default_factory=list)
    """Compressed, base64."""
    starts: list[int] = field(default_factory=list)
    """Number of the first unit of each chunk."""

    def index(self, first_chunk: int) -> dict[str, Any]:
        """What the page's script reads; chunks are numbered from `first_chunk` on."""
        task = self.source.task.plan
        return {
            "run": self.source.run,
            "task": task.name,
            "metric": task.metric,
            "restricted": self.source.task.is_restricted,
            "withheld": self.source.withholds,
            "first_chunk": first_chunk,
            "starts": self.starts,
            **self.columns,
        }


def measure(source: Source) -> Size:
    """Count the units and estimate their size from some. Raises StoreError."""
    results = source.task.results
    expected = results.counts.expected if results else 0
    step = max(1, expected // PROBES)
    probes, units = [], 0
    for line in source.lines():
        if units % step == 0:
            probes.append(_texts(source.parse(line), source)[0])
        units += 1
    if not units:
        return Size(0, 0.0)
    packed = len(zlib.compress(b"".join(probes), LEVEL)) * BASE64 / len(probes)
    return Size(units, packed + INDEX_BYTES)


def collect(source: Source, size: Size, every: int, limit: float) -> Group:
    """Take every n-th unit (none for 0), and stop at `limit` bytes. Raises StoreError."""
    group = Group(source, size.units, every)
    if not every:
        return group
    metric, weight = source.task.plan.metric, source.task.weight
    waiting: list[bytes] = []
    written = waits = 0
    for line in itertools.islice(source.lines(), 0, None, every):
        unit = source.parse(line)
        text, was_cut = _texts(unit, source)
        if not waiting:
            group.starts.append(group.kept)
        waiting.append(text)
        waits += len(text)
        _index(group.columns, unit, metric, weight, withhold=source.withholds)
        group.kept += 1
        group.cut += was_cut
        if waits >= CHUNK:
            group.chunks.append(pack(b"[%b]" % b",".join(waiting)))
            written += len(group.chunks[-1]) + INDEX_BYTES * len(waiting)
            waiting, waits = [], 0
            if written > limit:
                break
    if waiting:
        group.chunks.append(pack(b"[%b]" % b",".join(waiting)))
    return group


def pack(content: bytes) -> str:
    """zlib, then base64: text that no parser of HTML takes for anything else."""
    return base64.b64encode(zlib.compress(content, LEVEL)).decode()


def _texts(unit: dict[str, Any], source: Source) -> tuple[bytes, bool]:
    names = OPEN if source.withholds else TEXTS
    return clip_unit({name: unit[name] for name in names if unit.get(name) not in (None, [], ())})


def _index(
    columns: dict[str, list[Any]],
    unit: dict[str, Any],
    metric: str,
    weight: str | None,
    *,
    withhold: bool,
) -> None:
    answer = unit["answer"]
    shown = "" if withhold else _last_words(unit.get("messages") or ())
    columns["id"].append(unit["id"])
    columns["repeat"].append(unit["repeat"])
    columns["outcome"].append(unit["outcome"])
    columns["score"].append(share_of(unit["scores"], metric, weight))
    columns["tokens"].append(unit["usage"]["completion_tokens"])
    columns["answer"].append(None if withhold or answer is None else answer[:SHORT])
    columns["preview"].append(shown)


def share_of(scores: dict[str, float] | None, metric: str, weight: str | None) -> float | None:
    """A unit's score as a share of what it may reach; null without a score, or without a part to reach."""
    if scores is None or metric not in scores:
        return None
    possible = 1.0 if weight is None else scores[weight]
    return round(scores[metric] / possible, 4) if possible else None


def _last_words(messages: Any) -> str:
    """The beginning of what the user said last, on one line."""
    said = [m for m in messages if m.get("role") == "user"]
    content = said[-1].get("content") if said else ""
    if not isinstance(content, str):
        content = orjson.dumps(content).decode()
    return " ".join(content[: 4 * PREVIEW].split())[:PREVIEW]
