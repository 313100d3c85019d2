"""Secrets in text that others wrote: an endpoint may repeat the key that it was sent.

Replaced are exact values only, as they are and as JSON writes them. Nothing is guessed by its looks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HIDDEN = "***"
SHORTEST = 8
"""Shorter values are in ordinary text too."""


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret replaced."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


def spellings(values: Iterable[str]) -> tuple[str, ...]:
    """Secrets in all their spellings, longest first; values too short to be told from text are left out."""
    found: set[str] = set()
    for value in values:
        if len(value) >= SHORTEST:
            quoted = json.dumps(value)[1:-1]
            found |= {value, quoted, quoted.replace("/", "\\/")}
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def request_secrets(headers: Mapping[str, str], proxy: str | None) -> tuple[str, ...]:
    """What a request carries that no record may show: values of headers, the proxy's password."""
    values = [part for value in headers.values() for part in (value, value.partition(" ")[2])]
    password = urlsplit(proxy).password if proxy else None
    if password:
        values += [password, unquote(password)]
    return spellings(values)
