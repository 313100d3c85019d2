"""Which commit of a hub model is evaluated.

A hub model is its commit: the hub is asked for it where a plan is made, and the server is told to load
that one. The small files that the local cache has of it are hashed too, to describe the model; a run
is not compared by them, for the cache of another machine, or of tomorrow, holds others.

Nothing is downloaded here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import RecipeError
from evalkit.plan.model import ModelIdentity
from evalkit.serving.identity import digest_small_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from evalkit.recipe.schema import Source

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 10.0
"""Longest wait for the hub's answer: where there is no internet, a plan is made without it."""


def hub_identity(
    name: str,
    model: Source,
    existing: ModelIdentity | None,
    on_progress: Callable[[str], None],
    section: str = "models",
) -> ModelIdentity:
    """Identity of `<section>.<name>`, a hub repository, with the commit that its revision means.

    `existing` is the model of the run as it was planned: without a revision in the recipe the run goes
    on with the commit that it began with. A commit that nobody knows is said through `on_progress`.
    Raises RecipeError when what the cache holds cannot be read.
    """
    repository = model.hub or ""
    if existing is not None and (existing.source, existing.weights) != (repository, None):
        existing = None
    revision = _resolve(repository, model.revision, existing)
    if not is_commit(revision):
        at = "" if revision is None else f" at {revision}"
        on_progress(
            f"warning: {section}.{name} is not pinned: the commit of {repository}{at} is not known "
            f"here. Set {section}.{name}.revision to a commit, or the files may change during the run."
        )
    return _with_hashes(ModelIdentity(name=name, source=repository, revision=revision))


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, and not a branch, a tag or nothing."""
    return revision is not None and COMMIT.fullmatch(revision) is not None


def _resolve(repository: str, wanted: str | None, existing: ModelIdentity | None) -> str | None:
    """What the recipe means, that of the run there is, the hub's word, the cache's, as it was given."""
    if is_commit(wanted):
        return wanted
    if existing is not None and wanted in (None, existing.revision):
        return existing.revision
    found = ask_hub(repository, wanted) or find_commit(repository, wanted)
    if existing is not None and is_commit(existing.revision) and not is_commit(found):
        return existing.revision
    return found


def ask_hub(repository: str, revision: str | None) -> str | None:
    """The commit of a revision on the hub now; null where the hub cannot be asked, or has none."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        return None
    # Its versions use different HTTP clients: the bases are the client's own error and OSError.
    failures: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT_S)
    except failures:
        return None
    return str(info.sha) if info.sha else None


def find_commit(repository: str, revision: str | None) -> str | None:
    """The commit of a revision in the local cache; else the revision as given. Without network."""
    folder = None if is_commit(revision) else find_snapshot(repository, revision)
    return revision if folder is None else folder.name


def find_snapshot(repository: str, revision: str | None) -> Path | None:
    """Folder of a revision in the local cache of `huggingface_hub`, when both are there."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    try:
        found = try_to_load_from_cache(repository, "config.json", revision=revision)
    except ValueError as error:
        raise RecipeError(f"{repository!r} is not the name of a hub repository: {error}") from error
    return Path(found).parent if isinstance(found, str) else None


def _with_hashes(identity: ModelIdentity) -> ModelIdentity:
    folder = find_snapshot(identity.source, identity.revision)
    if folder is None:
        return identity
    try:
        return identity.model_copy(update=digest_small_files(folder))
    except OSError as error:
        raise RecipeError(f"models.{identity.name}.hub: cannot read {folder}: {error}") from error
