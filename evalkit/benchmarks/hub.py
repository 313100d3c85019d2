"""One file of a data set from the Hugging Face hub, at a pinned revision.

The only module that knows the hub's client. Every way it fails becomes a DataError that says what to
do; nothing is guessed from error texts.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.benchmarks.data import DataSource


def download(source: DataSource, revision: str | None, task: str) -> Path:
    """Local path of `source.file` at `revision`, from the hub's cache where it is there already.

    Raises DataError when the client is not installed, the data set is gated or missing, or the hub
    cannot be reached.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise DataError(
            f"tasks.{task}: {source.hub} is on the Hugging Face hub, and huggingface_hub is not installed",
            hint=f"pip install 'evalkit[hub]', or set tasks.{task}.data.path to a local file.",
        ) from error
    local = f"or set tasks.{task}.data.path to a local file."
    where = f"tasks.{task}: {source.hub}@{revision or 'main'} {source.file}"
    try:
        with _quiet_client():
            found = hf_hub_download(
                repo_id=str(source.hub),
                filename=str(source.file),
                repo_type="dataset",
                revision=revision,
            )
    except GatedRepoError as error:
        raise DataError(
            f"{where}: this data set is gated",
            hint="Accept its terms on the hub and set HF_TOKEN to a token of that account, "
            + local,
        ) from error
    except (RevisionNotFoundError, EntryNotFoundError, RepositoryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(where, local, error) from error
        raise DataError(
            f"{where}: not on the hub (or not visible without HF_TOKEN)",
            hint=f"Check data.revision and HF_TOKEN, {local}",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _unreachable(where, local, error) from error
    return Path(found)


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """Without the client's lines about each try that failed: what came of them is ours to say."""
    logger = logging.getLogger("huggingface_hub")  # its modules' loggers have no level of their own
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _unreachable(where: str, local: str, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return DataError(
        f"{where}: the hub cannot be reached and the file is not in its cache ({reason})",
        hint=f"Run `evalkit prepare` where there is internet, {local}",
    )
