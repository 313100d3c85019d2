"""What a harness is: somebody else's benchmarks behind evalkit's contract.

A plug-in of the entry-point group `evalkit.harnesses`. In a recipe its tasks are `benchmark: NAME/TASK`. Nothing
here imports the harness's own package: that may live in another Python environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Benchmark


@dataclass(frozen=True, slots=True)
class HarnessTask:
    """One task that a harness offers."""

    name: str
    """As in `benchmark: HARNESS/NAME`."""
    kind: str = ""
    """What is asked of the model, such as `generate_until` or `chat`."""
    description: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What it sets where a recipe says nothing."""


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """The Python environment that a harness needs."""

    name: str
    """Folder below the environments of harnesses, and what `evalkit harness install` takes."""
    package: str
    """Distribution whose version is the harness's."""
    module: str
    """Import that must work."""
    requirements: str
    """File of pinned versions in `evalkit/harnesses/requirements/`, or the path of a plug-in's own. Empty where
    the environment was made from a wheel that the user named."""
    extra: str | None = None
    """Extra of evalkit that brings the package into evalkit's own environment."""


class Harness(ABC):
    """One harness. Made without arguments for every entry point of the group."""

    name: str
    title: str
    description: str
    """A sentence for `evalkit ls harnesses`."""
    licence: str
    environment: EnvironmentSpec | None = None
    """Null for one that needs none."""
    benchmark_type: type[Benchmark[Any]]
    """Its tasks; their parameters have those of `task_params`."""
    needs_task: bool = True
    """False for one without tasks of its own: `benchmark: NAME` then."""

    def task_params(self, task: str) -> Mapping[str, Any]:
        """The parameters that choose a task."""
        return {"task": task} if self.needs_task else {}

    @abstractmethod
    def tasks(self) -> Sequence[HarnessTask]:
        """All tasks it offers, in its own order. Raises PlanError where it is not installed, with
        what to type."""
