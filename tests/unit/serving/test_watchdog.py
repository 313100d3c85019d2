"""When silence is a hang, decided on values; and how answers of a server are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import EndpointError
from evalkit.serving.endpoint import Endpoint
from evalkit.serving.ready import IdentityError, confirm_model, server_root
from evalkit.serving.watchdog import Progress, Reading, judge, read_tokens
from evalkit.serving.wire import Answer, parse_models

START = Progress(since=100.0, completed=5, tokens=50.0)
STALL_S = 30.0


def reading(
    at: float, in_flight: int = 4, completed: int = 5, tokens: float | None = 50.0
) -> Reading:
    """A look at a server on which nothing moved since START."""
    return Reading(at, in_flight, completed, tokens)


def test_silence_becomes_suspect_at_the_limit() -> None:
    """Not before the stall time is over, and with the time of the last progress kept."""
    assert judge(START, reading(129.9), STALL_S) == ("healthy", START)
    assert judge(START, reading(130.0), STALL_S) == ("suspect", START)


@pytest.mark.parametrize(
    "seen",
    [
        reading(500, tokens=51.0),
        reading(500, completed=6),
        reading(500, in_flight=0),
        reading(500, completed=6, tokens=None),
    ],
)
def test_any_progress_resets(seen: Reading) -> None:
    """A token, a finished call, or nothing to do: each starts the time again."""
    verdict, progress = judge(START, seen, STALL_S)
    assert verdict == "healthy"
    assert (progress.since, progress.probes) == (500, 0)


def test_missing_counters_are_not_progress() -> None:
    """A metrics page that does not answer is no sign of life, and its last value is kept."""
    assert judge(START, reading(131, tokens=None), STALL_S).verdict == "suspect"
    later = judge(START, reading(110, completed=6, tokens=None), STALL_S).progress
    assert later.tokens == 50.0


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 3), st.booleans()), max_size=30))
def test_suspect_means_a_whole_stall_time_of_silence(
    looks: list[tuple[float, int, bool]],
) -> None:
    """Whatever the sequence, suspicion needs calls in flight and no progress for the stall time."""
    now, tokens, progress, quiet_since = 100.0, 50.0, START, 100.0
    for step, in_flight, moved in looks:
        now += step
        tokens += moved
        verdict, progress = judge(progress, reading(now, in_flight, tokens=tokens), STALL_S)
        if moved or in_flight == 0:
            quiet_since = now
        assert (verdict == "suspect") == (now - quiet_since >= STALL_S)


def test_token_counters() -> None:
    """Prompt and generated tokens of all engines count; other lines do not."""
    page = (
        "# TYPE vllm:generation_tokens_total counter\n"
        'vllm:prompt_tokens_total{engine="0",model_name="a b"} 10.0\n'
        'vllm:generation_tokens_total{engine="0",model_name="a"} 5.0\n'
        'vllm:generation_tokens_total{engine="1",model_name="a"} 1e+03\n'
        'vllm:generation_tokens_created{engine="0"} 1.7e9\n'
        'vllm:request_generation_tokens_sum{engine="0"} 77.0\n'
    )
    assert read_tokens(Answer(200, page)) == 1015.0
    assert read_tokens(Answer(200, "sglang:tokens 1")) is None
    assert read_tokens(Answer(500, page)) is None


@pytest.mark.parametrize("text", ["", "[]", '{"data": {}}', "<html>", '{"object": "list"}'])
def test_what_is_no_list_of_models(text: str) -> None:
    """Pages that answer 200 with something else are told apart from an empty list."""
    assert parse_models(Answer(200, text)) is None
    assert parse_models(Answer(200, '{"data": []}')) == {}


@given(st.text())
def test_any_text_may_come_back(text: str) -> None:
    """No answer makes the reader fail."""
    parse_models(Answer(200, text))
    read_tokens(Answer(200, text))


def test_identity_check() -> None:
    """The right model brings its context length; a wrong key and a wrong name have a class."""
    endpoint = Endpoint("http://h:1/v1", "m", max_model_len=7)
    body = '{"data": [{"id": "m", "max_model_len": 9}, {"id": "x"}]}'
    assert confirm_model(endpoint, Answer(200, body)).max_model_len == 9
    assert confirm_model(Endpoint("u", "x", max_model_len=7), Answer(200, body)).max_model_len == 7
    for answer in (Answer(401, "no"), Answer(404, "no"), Answer(200, '{"data": [{"id": "y"}]}')):
        with pytest.raises(IdentityError):
            confirm_model(endpoint, answer)
    assert issubclass(IdentityError, EndpointError)


def test_server_root() -> None:
    """Health and metrics are beside the version, not below it."""
    assert server_root("http://h:1/v1") == "http://h:1"
    assert server_root("http://h:1/v1/") == "http://h:1"
    assert server_root("http://h:1/api") == "http://h:1/api"
