"""The commit of a hub model: asked for once, kept by the run, and said when nobody knows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from evalkit.errors import RecipeError
from evalkit.plan.model import ModelIdentity
from evalkit.recipe.schema import Model
from evalkit.serving.hub import find_commit, hub_identity

if TYPE_CHECKING:
    from pathlib import Path

NEW, OLD, CACHED = "a" * 40, "b" * 40, "c" * 40
REPOSITORY = "nvidia/nano"


class FakeHub:
    """The hub's answer, and what it was asked."""

    def __init__(self) -> None:
        self.answer: str | Exception | None = OfflineModeIsEnabled("offline")
        self.asked: list[tuple[str, str | None]] = []

    def model_info(self, repository: str, *, revision: str | None, timeout: float) -> Any:
        """As `HfApi.model_info`."""
        assert timeout > 0
        self.asked.append((repository, revision))
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(sha=self.answer)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    """A hub that cannot be reached, until a test gives it an answer, and an empty cache."""
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    look_up = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda *a, **k: look_up(*a, **k, cache_dir=tmp_path),
    )
    return fake


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The snapshot of a commit in the cache, which `main` points to there."""
    root = tmp_path / "models--nvidia--nano"
    snapshot = root / "snapshots" / CACHED
    snapshot.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (snapshot / name).write_text("{}")
    (snapshot / "chat_template.jinja").write_text("{{ x }}")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(CACHED)
    return snapshot


def identify(
    revision: str | None = None, existing: ModelIdentity | None = None
) -> tuple[ModelIdentity, list[str]]:
    """Identity of `models.nano`, and what was said."""
    said: list[str] = []
    model = Model(hub=REPOSITORY, revision=revision)
    return hub_identity("nano", model, existing, said.append), said


def planned(revision: str | None, source: str = REPOSITORY) -> ModelIdentity:
    """The model of a run that was planned before."""
    return ModelIdentity(name="nano", source=source, revision=revision)


def test_commit_is_taken_as_it_is(hub: FakeHub) -> None:
    """A commit in the recipe pins the model; nobody is asked."""
    assert identify(OLD) == (planned(OLD), [])
    assert hub.asked == []


@pytest.mark.parametrize("revision", [None, "main"])
def test_hub_is_asked(hub: FakeHub, cache: Path, revision: str | None) -> None:
    """Without a commit the hub says which one it is, whatever an older cache says."""
    hub.answer = NEW
    assert identify(revision) == (planned(NEW), [])
    assert hub.asked == [(REPOSITORY, revision)]


@pytest.mark.parametrize(
    "failure",
    [OfflineModeIsEnabled("off"), ConnectionError(), ValueError("bad"), HfHubHTTPError.__bases__[0]("x"), None],
    ids=["offline", "refused", "bad name", "http", "no commit"],
)  # fmt: skip
def test_cache_where_the_hub_is_silent(
    hub: FakeHub, cache: Path, failure: Exception | None
) -> None:
    """However the hub fails, the cache is looked into."""
    hub.answer = failure
    identity, said = identify()
    assert (identity.revision, said) == (CACHED, [])


@pytest.mark.parametrize(("revision", "at"), [(None, ""), ("v2", " at v2")])
def test_unknown_commit_is_said(hub: FakeHub, revision: str | None, at: str) -> None:
    """With neither hub nor cache the revision stays as it is, with a warning that says what to set."""
    identity, said = identify(revision)
    assert identity == planned(revision)
    assert said == [
        f"warning: models.nano is not pinned: the commit of nvidia/nano{at} is not known here. Set "
        "models.nano.revision to a commit, or the files may change during the run."
    ]


@pytest.mark.parametrize("before", [OLD, None])
def test_run_keeps_its_commit(hub: FakeHub, before: str | None) -> None:
    """A run goes on with what it began with, though the repository, or the cache, has moved on."""
    hub.answer = NEW
    assert identify(None, planned(before))[0].revision == before
    assert identify("v2", planned("v2"))[0].revision == "v2"
    assert hub.asked == []


def test_run_of_a_branch(hub: FakeHub) -> None:
    """A branch means what it is now; without the hub, what it was when the run was planned."""
    assert identify("main", planned(OLD))[0].revision == OLD
    hub.answer = NEW
    assert identify("main", planned(OLD))[0].revision == NEW
    assert identify(NEW, planned(OLD))[0].revision == NEW


def test_run_of_another_model(hub: FakeHub) -> None:
    """The commit of another repository, or of a checkpoint folder of that name, is not taken."""
    hub.answer = NEW
    assert identify(None, planned(OLD, "other/nano"))[0].revision == NEW
    folder = planned(None).model_copy(update={"weights": "w"})
    assert identify(None, folder)[0].revision == NEW


def test_cached_files_describe_the_model(hub: FakeHub, cache: Path) -> None:
    """What the cache holds of the commit is hashed; of another commit nothing is known."""
    identity, _ = identify()
    assert identity.weights is None
    assert all((identity.config, identity.tokenizer, identity.chat_template))
    assert identify(OLD)[0] == planned(OLD)


def test_cached_commit(hub: FakeHub, cache: Path) -> None:
    """A branch becomes the commit that the cache has for it; else it stays as given."""
    assert find_commit(REPOSITORY, "main") == CACHED
    assert find_commit(REPOSITORY, "v2") == "v2"
    assert find_commit("nvidia/other", None) is None


def test_name_that_is_no_repository() -> None:
    """A name that the hub cannot have is an error of the recipe."""
    with pytest.raises(RecipeError, match="is not the name of a hub repository"):
        find_commit("a/b/c", None)
