"""Where the tests of a LiveCodeBench sample are kept: beside the run (`staged`), or in it (`frozen`).

The default window's tests are 1.9 GB of JSON as published, and 1.4 GB compressed, in every run folder
and in the memory of every process that opens its samples. So a sample holds their checksum, and the
tests lie in evalkit's cache folder, one file per problem, named by it: whoever grades needs that folder,
and another plan finds it filled. `frozen` puts them into the sample where a run has to be graded
elsewhere. Both hold the texts of the data set unchanged.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

import orjson
import zstandard

from evalkit.benchmarks.env import cache_folder
from evalkit.benchmarks.lcb_data import read_tests
from evalkit.errors import DataError, ScorerError
from evalkit.store.publish import publish

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evalkit.scoring.lcb import Cases

Place = Literal["staged", "frozen"]

_LEVEL = 1
"""zstandard: takes back what base64 adds, at 500 MB/s; no level gains a tenth more on digits."""
_MOST = 2**31


def keep_tests(public: str, private: str, place: Place) -> dict[str, Any]:
    """What the sample is to hold so that `find_tests` finds them. Raises StoreError."""
    if place == "frozen":
        return {"public": public, "private": private}
    content = orjson.dumps([public, private])
    digest = hashlib.sha256(content).hexdigest()
    path = _path(digest)
    if not path.is_file():
        publish(path, zstandard.ZstdCompressor(level=_LEVEL).compress(content))
    return {"sha256": digest}


def find_tests(kept: Mapping[str, Any], where: str) -> Cases:
    """The tests. Raises ScorerError where they are no longer there, or were changed."""
    try:
        if "sha256" not in kept:
            return read_tests(kept["public"], kept["private"], where)
        public, private = orjson.loads(_read(kept["sha256"], where))
        return read_tests(public, private, where)
    except DataError as error:
        raise ScorerError(str(error)) from error


def _read(digest: str, where: str) -> bytes:
    path = _path(digest)
    again = (
        "Type `evalkit prepare` with the run's recipe where the data can be read, with the same "
        "XDG_CACHE_HOME; params.tests: frozen keeps them in the run's own folder."
    )
    try:
        content = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=_MOST)
    except OSError as error:
        raise ScorerError(
            f"{where}: its tests are not at {path}: {error.strerror or error}", hint=again
        ) from error
    except zstandard.ZstdError as error:
        raise ScorerError(f"{path} is damaged: {error}", hint=f"Delete it. {again}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ScorerError(
            f"{path} holds other tests than its name says", hint=f"Delete it. {again}"
        )
    return content


def _path(digest: str) -> Path:
    return cache_folder() / "livecodebench" / f"{digest}.json.zst"
