"""The environment, as far as other harnesses need it: where they are installed, and what they may see."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.scoring.vendored import vendored_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER_VARIABLE = "EVALKIT_HARNESSES"
_SEEN = frozenset(
    {
        *("PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LANGUAGE", "TZ"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        "NLTK_DATA",
    }
)
_SEEN_PREFIXES = ("LC_", "XDG_", "HF_", "HUGGINGFACE_HUB_", "HUGGINGFACE_CO_", "TRANSFORMERS_")
"""`HUGGINGFACE_API_KEY` is that of a hosted model."""
_PYTHON = {
    "PYTHONNOUSERSITE": "1",
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # workers on many nodes share one folder of packages
    "PYTHONHASHSEED": "0",  # what a harness makes of a set is the same wherever it is asked
    "PYTHONUNBUFFERED": "1",  # what it said last before it was killed is in its log
}


def environments_folder() -> Path:
    """Where environments of harnesses live: `$EVALKIT_HARNESSES`, by default below evalkit's own Python.

    Jobs find it where the command that sent them does: for Slurm it must be on storage that all nodes
    share.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else vendored_folder("harnesses")


def harness_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a harness sees of our environment, and `more`.

    Paths, language, proxies, certificates, and the settings of the hub, whose token data may need. Keys
    of hosted models and whatever else a shell holds stay out: a harness that finds a key may use it.
    """
    kept = {k: v for k, v in os.environ.items() if k in _SEEN or k.startswith(_SEEN_PREFIXES)}
    return {**kept, **_PYTHON, **(more or {})}


def install_environment() -> dict[str, str]:
    """What pip sees: everything, for its configuration may be anywhere, but no packages of others."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    kept = {k: v for k, v in os.environ.items() if k not in hidden}
    return {**kept, "PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PYTHONUNBUFFERED": "1"}
