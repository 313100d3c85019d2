"""A model card as a file: what was published for which benchmarks, and how it was made.

Cards that come with evalkit lie in `recipes/cards/`. What a card's file does not say is not known; nothing
here has a default that would be taken for something that was published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from evalkit.recipe.files import Kind, find_file, read_file
from evalkit.recipe.problems import problems_of, recipe_error
from evalkit.recipe.schema import Generation, Profile
from evalkit.recipe.section import Section
from evalkit.recipe.shape import section_shape
from evalkit.recipe.values import Text
from evalkit.shipped import shipped_cards

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self


class CardBenchmark(Section):
    """One published score."""

    value: float = Field(ge=0, le=100)
    """In percent, as published."""
    decimals: int = Field(1, ge=0, le=6)
    """Digits after the point that `value` was rounded to."""
    metric: Text
    """Name of the headline's metric in evalkit."""
    samples: int | None = Field(None, ge=1)
    """Number of samples."""
    parts: int | None = Field(None, ge=1)
    """Number of the samples' parts, where the metric counts those."""
    repeats: int = Field(ge=1)
    """Independent answers to each sample."""
    version: Text | None = None
    """Version of evalkit's benchmark that asks and scores as the card did."""
    generation: Generation = Generation()
    """Sampling, over the card's own."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the benchmark."""
    data: tuple[Text, ...] = ()
    """sha256 of the data it may have been."""
    judge: Text | None = None
    """Model id of the judge. A score by another one is not compared with `value`."""
    band: float | None = Field(None, gt=0)
    """Points around `value` within which a rerun is usually accepted."""
    notes: tuple[Text, ...] = ()
    """What is not certain about the entry."""

    @model_validator(mode="after")
    def _counts_something(self) -> Self:
        if self.samples is None and self.parts is None:
            raise ValueError("give the number of samples, or of parts")
        return self


class CardClient(Section):
    """How requests were sent."""

    timeout_s: float | None = Field(None, gt=0)
    """Total time of one request."""
    max_retries: int | None = Field(None, ge=0)
    """Retries of one request."""


class Card(Section):
    """What was published for one model."""

    name: Text
    source: tuple[Text, ...]
    """Where values and settings were read."""
    models: tuple[Text, ...]
    """Repositories of the model."""
    profile: Profile
    """Profile that asks and scores as the card did."""
    generation: Generation = Generation()
    """Sampling of all benchmarks; only keys that are written are known."""
    reasoning: Literal["apart", "none"] | None = None
    """Whether the server took reasoning out of the answers, or the model did not reason."""
    client: CardClient = CardClient()
    benchmarks: dict[str, CardBenchmark] = Field(min_length=1)

    def sampling(self, benchmark: str) -> dict[str, Any]:
        """The sampling settings that are known of one benchmark."""
        own = self.benchmarks[benchmark].generation
        layers = (self.generation, own)
        return {
            key: value
            for layer in layers
            for key, value in layer.model_dump(mode="json", exclude_unset=True).items()
        }


def load_card(source: str | Path) -> Card:
    """A card by path or shipped name. Raises RecipeError with every problem and its line."""
    kind = Kind("card", shipped_cards(), lambda document, _folder: document)
    path = find_file(source, kind)
    document = read_file(path, kind).document
    try:
        return Card.model_validate(document.data)
    except ValidationError as error:
        problems = problems_of(error, document.data, section_shape(Card))
        raise recipe_error(problems, document, str(path)) from None
