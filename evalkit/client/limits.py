"""What an endpoint's refusal says about its limits: how long to wait, or that there is nothing left.

Providers agree on 429 and on little else. Read here: `Retry-After` in seconds or as a date,
`retry-after-ms`, the `x-ratelimit-*` family and its relatives in headers or in the error's own
metadata, `estimated_time` of a model that is being loaded, and errors inside of a 200. Pure.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

TOO_MANY = 429
USED_UP = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_credits",
        "quota_exceeded",
        "quota_exhausted",
        "billing_hard_limit_reached",
        "billing_not_active",
        "payment_required",
    }
)
"""Codes and types of errors that no waiting cures."""
USED_UP_WORDS = re.compile(
    r"exceeded your (?:current quota|monthly included credits)|insufficient (?:credit|balance|quota|funds)"
    r"|(?:credits?|quota|balance) (?:is |are |has been |have been )?(?:exhausted|depleted|used up|expired)"
    r"|run out of credits",
    re.IGNORECASE,
)
KINDS = ("-requests", "-tokens", "")
"""Parts of the x-ratelimit headers: what they are about."""
EPOCH_S = 1e9
"""A larger number of seconds is a date: a time since 1970."""
_DURATION = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_UNIT_WORDS = re.compile(r"(?:days?|hours?|minutes?|min|seconds?|secs?)$")
_WAIT_WORDS = re.compile(
    r"\b(?:re-?try|try again) (?:again )?(?:in|after) ([\d.]*\d *[a-z][a-z0-9.]*)", re.IGNORECASE
)
_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds of a Retry-After header, which may be a date (`now`: seconds since 1970); null when it
    says nothing that can be read."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)


def wait_asked(headers: Mapping[str, str], body: bytes, now: float) -> float | None:
    """Seconds that a refusal asks to wait; null where it says none. `now`: seconds since 1970."""
    error = _error_in(body)
    given = {name.lower(): value for name, value in headers.items()}
    for name, value in _metadata_headers(error).items():
        given.setdefault(name.lower(), str(value))
    if (milliseconds := parse_retry_after(given.get("retry-after-ms"), now)) is not None:
        return milliseconds / 1000
    if (seconds := parse_retry_after(given.get("retry-after"), now)) is not None:
        return seconds
    waits = [wait for kind in KINDS if (wait := _reset(given, kind, now)) is not None]
    if waits:
        return max(waits)
    estimated = error.get("estimated_time")
    if isinstance(estimated, int | float) and not isinstance(estimated, bool):
        return max(0.0, float(estimated))
    return wait_in_words(str(error.get("message", "")))


def wait_in_words(message: str) -> float | None:
    """Seconds of `Please retry in 34.07s.` or `try again in 20 seconds`; null where no words say it."""
    found = _WAIT_WORDS.search(message)
    if found is None:
        return None
    text = found[1].lower().rstrip(".").replace(" ", "")
    return parse_duration(_UNIT_WORDS.sub(lambda unit: unit[0][0], text))


def is_used_up(status: int, body: bytes, *, asks_to_wait: bool = False) -> bool:
    """Whether credits or a quota are used up, which waiting does not bring back.

    Some speak of a quota per minute where they mean a rate: a 429 that names a wait, in its words or
    elsewhere (`asks_to_wait`), is told by its code alone.
    """
    if status == 402:
        return True
    if status not in (TOO_MANY, 403):
        return False
    error = _error_in(body)
    named = {str(error.get(key)).lower() for key in ("code", "type", "status")}
    if named & USED_UP:
        return True
    message = str(error.get("message", ""))
    if status == TOO_MANY and (asks_to_wait or wait_in_words(message) is not None):
        return False
    return bool(USED_UP_WORDS.search(message))


def status_within(body: bytes) -> int | None:
    """The status of an error that came in the body of a 200; null where there is none.

    An error that does not say is a failure of the server (500).
    """
    answer = _object(body)
    error = answer.get("error")
    choices = answer.get("choices")
    if not error and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        error = choices[0].get("error")
    if not error:
        return None
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    if isinstance(code, int | str) and str(code).isdecimal() and 400 <= int(code) < 600:
        return int(code)
    if isinstance(error, dict):
        words = {str(error.get(key)).lower() for key in ("code", "type")}
        if words & USED_UP or any("rate_limit" in word for word in words):
            return TOO_MANY
    return 500


def parse_duration(text: str) -> float | None:
    """Seconds of `6m0s`, `1.5s`, `20ms`, `1h2m` or a plain number; null for anything else."""
    try:
        return float(text)
    except ValueError:
        pass
    found = _DURATION.fullmatch(text.strip())
    if not text.strip() or found is None:
        return None
    return sum(
        float(part) * unit for part, unit in zip(found.groups(), _UNITS, strict=True) if part
    )


def _reset(given: Mapping[str, str], kind: str, now: float) -> float | None:
    """Seconds until the limit of one kind is reset, where that is the one that was reached."""
    for prefix in ("x-ratelimit", "ratelimit"):
        text = given.get(f"{prefix}-reset{kind}")
        seconds = None if text is None else parse_duration(text)
        if seconds is None:
            continue
        left = parse_duration(given.get(f"{prefix}-remaining{kind}", "0"))
        if left is not None and left >= 1:
            continue  # it was another limit
        if seconds > EPOCH_S * 1000:
            seconds /= 1000
        return max(0.0, seconds - now if seconds > EPOCH_S else seconds)
    return None


def _error_in(body: bytes) -> dict[str, Any]:
    """The error of a body, with what stands beside it."""
    answer = _object(body)
    error = answer.get("error")
    beside = {name: value for name, value in answer.items() if name != "error"}
    return {**beside, **(error if isinstance(error, dict) else {"message": error or ""})}


def _metadata_headers(error: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    return headers if isinstance(headers, dict) else {}


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
