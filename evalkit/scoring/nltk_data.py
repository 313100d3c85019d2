"""NLTK without its downloader: graders read data that is already here, and say so where it is not.

Packages built on NLTK call `nltk.download` while they score, and go on with a wrong answer or a
traceback where nothing can be downloaded. Inside `offline()` that call does nothing, and data is read
from a cache that a pinned package carries, then from NLTK's own folders. Afterwards everything is as
it was. Whether a resource is there is asked beforehand.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.scoring.vendored import vendored_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PUNKT = "tokenizers/punkt_tab"
STOPWORDS = "corpora/stopwords"
TAGGER = "taggers/averaged_perceptron_tagger_eng"

PINNED = vendored_folder("ifbench") / "llama_index" / "core" / "_static" / "nltk_cache"
"""Of llama-index-core 0.14.25: tokenizer and stop words, no tagger."""


@contextlib.contextmanager
def offline() -> Iterator[Any]:
    """The module `nltk`, unable to download. Raises ImportError where it is not installed."""
    nltk: Any = import_module("nltk")
    download, folders = nltk.download, list(nltk.data.path)
    nltk.download = _do_nothing
    nltk.data.path[:] = [str(PINNED), *folders]
    try:
        yield nltk
    finally:
        nltk.download = download
        nltk.data.path[:] = folders


def missing_resources(names: Iterable[str]) -> list[str]:
    """Those of the resources that are not here, by the names above. Raises ImportError."""
    with offline() as nltk:
        return [name for name in names if not _is_there(nltk, name)]


def download_command(names: Iterable[str]) -> str:
    """What to type where there is internet; NLTK keeps the data in its own folders."""
    packages = " ".join(Path(name).name for name in names)
    return f"{sys.executable} -m nltk.downloader {packages}"


def _is_there(nltk: Any, name: str) -> bool:
    try:
        nltk.data.find(name)
    except LookupError:
        return False
    return True


def _do_nothing(*_args: object, **_options: object) -> bool:
    """Stands for `nltk.download`, whose callers expect to hear that it worked."""
    return True
