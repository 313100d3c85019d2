"""What a recipe may set of BFCL, and which of its categories can be run on this machine.

Which categories run is settled when the plan is made. One that is missing something is left out with
a reason in the log, or refused where the recipe names it; it is never run half.
"""

from __future__ import annotations

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import field_validator, model_validator

from evalkit.benchmarks.bfcl_choice import BackendName, recording_sha256, why_not
from evalkit.benchmarks.bfcl_dialogue import ReasoningReplay  # noqa: TC001 - pydantic reads it
from evalkit.benchmarks.contract import BenchmarkParams
from evalkit.benchmarks.fields import starts_at_the_root
from evalkit.errors import DataError
from evalkit.scoring.bfcl_categories import CATEGORIES, GROUPS, WEB_SEARCH
from evalkit.scoring.bfcl_simulators import VECTOR_PRELOAD

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger("evalkit.benchmarks")

VECTOR = "memory_vector"
_WEIGHTS = "model.safetensors"


class BfclParams(BenchmarkParams):
    """What is asked, how functions are described, and what the web is."""

    categories: tuple[str, ...] | None = None
    """Categories, or parts such as `live` and `multi_turn`, to run; by default all that can be run
    here. What is named and cannot be is refused."""
    java_js_schema: Literal["card", "fixed"] = "fixed"
    """`card`: Java and JavaScript functions are described as Python's, as behind the card; `fixed`: as
    what they are, with every parameter as text, as on the leaderboard."""
    double_hint: bool = False
    """Once held-out functions have appeared, every description names the language, most of them twice, as
    behind the card; else those that have appeared do not name it, as on the leaderboard."""
    reasoning_replay: ReasoningReplay = "both"
    """Send the model's reasoning back with its messages, under `reasoning` and `reasoning_content`, or
    not at all (`none`)."""
    web_search: BackendName | None = None
    """Where searches go: `serpapi` (SERPAPI_API_KEY), `ddgs`, `gateway` (EVALKIT_WEB_GATEWAY) or
    `replay`; by default nowhere, and the two categories are not run."""
    web_recording: str | None = None
    """What `replay` answers from: a recording of the gateway; path from / or ~."""
    web_private_addresses: bool = False
    """With `serpapi` and `ddgs`: a model may also fetch pages from addresses that are not public, such as
    those of the cluster's own nodes."""
    encoder_path: str | None = None
    """Folder, from / or ~, with the weights of sentence-transformers/all-MiniLM-L6-v2, which
    `memory_vector` needs."""
    package_path: str | None = None
    """Folder, from / or ~, that holds the package `bfcl_eval`; by default the installed one is used."""

    @field_validator("categories")
    @classmethod
    def _are_known(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """In the benchmark's order, each once."""
        if value is None:
            return None
        if unknown := [name for name in value if name not in CATEGORIES and name not in GROUPS]:
            allowed = ", ".join([*GROUPS, *CATEGORIES])
            raise ValueError(f"unknown: {', '.join(unknown)}. Allowed: {allowed}")
        if not value:
            raise ValueError("no category is named")
        meant = {name for each in value for name in GROUPS.get(each, (each,))}
        return tuple(name for name in CATEGORIES if name in meant)

    _starts_at_the_root = field_validator("web_recording", "encoder_path", "package_path")(
        starts_at_the_root
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.web_private_addresses and self.web_search not in ("serpapi", "ddgs"):
            raise ValueError(
                "web_private_addresses has an effect with web_search serpapi and ddgs only; a gateway "
                "is started with --allow-private-addresses"
            )
        return self

    @property
    def encoder(self) -> Path | None:
        """The encoder's folder."""
        return None if self.encoder_path is None else Path(self.encoder_path).expanduser()

    def why_not(self, category: str) -> str | None:
        """Why a category cannot be run here, or null."""
        if category in WEB_SEARCH:
            if self.web_search is None:
                return "params.web_search names no back end"
            return why_not(self.web_search, self.web_recording)
        return self._why_no_vector() if category == VECTOR else None

    def _why_no_vector(self) -> str | None:
        missing = [name for name in VECTOR_PRELOAD if find_spec(name) is None]
        if missing:
            return f"{', '.join(missing)} cannot be imported: pip install 'evalkit[bfcl-vector]'"
        if self.encoder is None:
            return "params.encoder_path does not name the encoder's weights"
        there = (self.encoder / _WEIGHTS).is_file()
        return None if there else f"there is no {_WEIGHTS} in {self.encoder_path}"


def choose_categories(params: BfclParams) -> Sequence[str]:
    """The categories that are run. Raises DataError for one that is named and cannot be, and where
    nothing is left."""
    chosen = []
    for category in params.categories or CATEGORIES:
        reason = params.why_not(category)
        if reason is None:
            chosen.append(category)
        elif params.categories is not None:
            raise DataError(
                f"bfcl_v4: {category} cannot be run here: {reason}",
                hint="Provide it, or leave the category out of params.categories.",
            )
        else:
            log.warning("bfcl_v4: %s is not run: %s", category, reason)
    return chosen


def further_checksums(params: BfclParams, categories: Sequence[str]) -> dict[str, str]:
    """sha256 of what moves scores besides the package. Raises DataError."""
    found = {}
    if params.web_search == "replay" and params.web_recording and set(categories) & set(WEB_SEARCH):
        found["web_recording"] = recording_sha256(params.web_recording)
    if VECTOR in categories and params.encoder is not None:
        content = (params.encoder / _WEIGHTS).read_bytes()
        found["encoder"] = hashlib.sha256(content).hexdigest()
    return found
