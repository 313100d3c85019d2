"""One data file from the web at a pinned address, kept in the user's cache by its checksum.

Only for files whose every byte is known: what arrives with another checksum is refused, so it does
not matter who served it.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from evalkit.benchmarks.env import cache_folder
from evalkit.errors import DataError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

TIMEOUT_S = 60
MAX_BYTES = 100_000_000
"""Far above any file fetched this way; a login page or an endless stream ends here."""


def fetch(url: str, name: str, known: Collection[str], task: str) -> Path:
    """Local path of the file at `url`, whose sha256 must be one of `known`. Raises DataError."""
    for digest in known:
        cached = cache_folder() / "data" / digest / name
        if cached.is_file() and hashlib.sha256(cached.read_bytes()).hexdigest() == digest:
            return cached
    content = _download(url, task)
    digest = hashlib.sha256(content).hexdigest()
    if digest not in known:
        raise DataError(
            f"tasks.{task}: {url} has sha256 {digest}, expected {' or '.join(known)}",
            hint=f"The file changed or was replaced on the way. Set tasks.{task}.data.path to a "
            "copy that you trust.",
        )
    target = cache_folder() / "data" / digest / name
    publish(target, content)
    return target


def _download(url: str, task: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read(MAX_BYTES)
    except urllib.error.HTTPError as error:
        error.close()  # it is a response, with an open connection
        raise _not_fetched(url, task, error) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _not_fetched(url, task, error) from error
    return content


def _not_fetched(url: str, task: str, error: Exception) -> DataError:
    return DataError(
        f"tasks.{task}: {url} cannot be fetched: {error}",
        hint="Run `evalkit prepare` where there is internet, or set "
        f"tasks.{task}.data.path to a local copy.",
    )
