"""Endpoints that refuse, lie, vanish or ask for patience: the person is told, and nothing is lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.faults.harness import (
    N_CALLS,
    TASKS,
    Place,
    differing,
    finish,
    journaled_calls,
    serving,
    wait_for,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder for one run."""
    return Place(tmp_path)


def journals(place: Place) -> int:
    """Number of calls in the journals."""
    return sum(map(len, journaled_calls(place.folder).values()))


def error_of(text: str) -> str:
    """The error at the end of what a command said."""
    return text[text.index("error: ") :]


def external(place: Place, base_url: str, **serving_keys: Any) -> Path:
    """A recipe against an endpoint with more keys of `serving`."""
    return place.write_recipe({"kind": "external", "base_url": base_url, **serving_keys})


def test_wrong_key(place: Place) -> None:
    """A key that is refused ends the run before its first unit, and is nowhere in the message."""
    place.env["MY_KEY"] = "sk-wrong-and-secret"
    with serving("--api-key", "right") as server:
        recipe = external(place, server.base_url, api_key_env="MY_KEY")
        text = place.evalkit("run", recipe, code=6)
    assert "does not accept our key (HTTP 401: " in error_of(text)
    assert "Check the key" in error_of(text)
    assert len(error_of(text).splitlines()) <= 4
    written = [path.read_bytes() for path in place.root.rglob("*") if path.is_file()]
    assert not any(b"sk-wrong-and-secret" in content for content in written)
    assert journals(place) == 0


def test_right_key(place: Place) -> None:
    """With the right key the run is done, and the key is in no file of it."""
    place.env["MY_KEY"] = "sk-right-and-secret"
    with serving("--api-key", "sk-right-and-secret") as server:
        place.evalkit("run", external(place, server.base_url, api_key_env="MY_KEY"))
    assert journals(place) == N_CALLS
    written = [path.read_bytes() for path in place.folder.root.rglob("*") if path.is_file()]
    assert not any(b"sk-right-and-secret" in content for content in written)


def test_wrong_model(place: Place) -> None:
    """A model id the endpoint does not serve is answered with those it does."""
    with serving() as server:
        recipe = external(place, server.base_url, served_model_name="huge")
        text = place.evalkit("run", recipe, code=6)
    assert error_of(text) == (
        f"error: {server.base_url} answers with another model's name: asked for 'huge', it serves "
        "'m'\nSet served_model_name to a name it serves, or start it with ours.\n"
    )


def test_wrong_model_without_a_list(place: Place) -> None:
    """Where the list of models is not asked for, the preflight finds it out."""
    with serving() as server:
        recipe = external(place, server.base_url, served_model_name="huge", check_models=False)
        text = place.evalkit("run", recipe, code=6)
    assert error_of(text) == (
        "error: preflight of tasks.addition: the endpoint refused it with 404: "
        '{"error": {"message": "The model `huge` does not exist.", "type": "fault", "code": 404}}\n'
        "Check the model id and serving.base_url.\n"
    )
    [status] = orjson.loads(place.evalkit("status", str(place.folder.root), "--json"))
    causes = [(failure["of"], failure["kind"]) for failure in status["failures"]]
    assert causes == [("attempt", "client_error")], (
        "the process of the attempt is no second failure"
    )


def test_server_that_dies_at_start(place: Place) -> None:
    """Exit code, the end of its log and the file are shown; the plan stays for another try."""
    recipe = place.command("--exit-at-start", "7", "--say", "no such quantization: fp3")
    text = place.evalkit("run", recipe, code=6)
    assert "exit code 7" in error_of(text)
    assert "no such quantization: fp3" in error_of(text)
    assert str(place.folder.server_log("r0", 1)) in error_of(text)
    assert place.folder.plan.is_file()


def test_server_of_another_model(place: Place) -> None:
    """A server that we start and that serves another name is no server of ours."""
    recipe = place.command("--served-as", "stranger", serving={"ready_timeout_s": 200})
    text = place.evalkit("run", recipe, code=6)
    assert "stranger" in error_of(text)
    assert journals(place) == 0


def test_program_that_is_not_there(place: Place) -> None:
    """A command that does not exist is named with its key."""
    recipe = place.write_recipe({"kind": "command", "gpus": 0, "command": ["no-such-server"]})
    text = place.evalkit("run", recipe, code=6)
    assert "no-such-server" in error_of(text)
    assert "serving.command" in error_of(text)


def test_some_requests_are_refused(place: Place) -> None:
    """Units whose request is refused are missing, never wrong, and are done when it is granted."""
    with serving("--fail-status", "400", "--fail-every", "7", "--fail-times", "99") as server:
        recipe = external(place, server.base_url, check_models=False)
        text = place.evalkit("run", recipe, code=10)
        assert "units are missing" in error_of(text)
        before = {task: orjson.loads(place.folder.results(task).read_bytes()) for task in TASKS}
        incomplete = [results for results in before.values() if not results["complete"]]
        assert incomplete
        assert all(results["headline"]["value"] is None for results in incomplete)
        assert sum(results["missing"]["count"] for results in before.values()) > 0
        server.switch(fail_status=0)
        place.evalkit("run", recipe)
    found = place.artifacts()
    assert all(found[f"{task}/results"]["complete"] for task in TASKS)


def test_everything_is_refused(place: Place) -> None:
    """An endpoint that grants nothing stops the run after some calls, not after all."""
    with serving("--hang-after", "100") as server:
        recipe = place.external(server, tasks={"addition": {"params": {"n": 2000}}})
        process = place.start("run", recipe)
        wait_for(lambda: server.counts()["answered"] >= 100, process)
        server.switch(fail_status=400, fail_times=10**6)
        server.go_on()
        text = finish(process, 6)
        counts = server.counts()
    assert "50 calls in a row failed; the last one: " in error_of(text)
    assert "fault on demand" in error_of(text)
    assert counts["received"] < 1000 + counts["answered"]
    assert journals(place) >= 100 - 8


def test_endpoint_that_vanishes(place: Place) -> None:
    """An endpoint that goes away ends the run with the reason; when it is back the run goes on."""
    client = {"parallelism": 60, "max_retries": 0}
    tasks = {"addition": {"params": {"n": 1000}}}
    with serving("--hang-after", "200") as server:
        recipe = place.external(server, client=client, tasks=tasks)
        process = place.start("run", recipe)
        wait_for(lambda: server.counts()["answered"] >= 200, process)
    text = finish(process, 6)
    assert "calls in a row failed" in error_of(text)
    done = journals(place)
    assert 200 - 60 - 1 <= done < 1000, "all but what was in flight, and the preflight"
    with serving(port=server.port) as server:
        place.evalkit("run", recipe)
        assert server.counts()["received"] == 1000 - done + 1, "one is the preflight"


def test_patience_with_a_rate_limit(place: Place) -> None:
    """A run against a limited endpoint ends complete, with the same answers as against a free one."""
    other = Place(place.root / "free")
    with serving() as server:
        other.evalkit("run", other.external(server))
    limits = ("--fail-status", "429", "--fail-every", "20", "--fail-times", "2")
    with serving(*limits, "--retry-after", "0.05") as server:
        place.evalkit("run", place.external(server, client={"parallelism": 100}))
    found = {key.split(".", 1)[1] for key in differing(place.artifacts(), other.artifacts())}
    assert found == {"counts.retries"}


def test_second_run_beside_the_first(place: Place) -> None:
    """While a run is worked on here, a second command is refused and says what to look at."""
    with serving("--hang-after", "8") as server:
        recipe = place.external(server)
        process = place.start("run", recipe)
        wait_for(lambda: server.counts()["answered"] >= 5, process)
        text = place.evalkit("run", recipe, code=9)
        assert "jobs of this run are still there" in error_of(text)
        assert "evalkit cancel" in error_of(text)
        process.send_signal(signal.SIGINT)
        server.go_on()
        text = finish(process, 130)
        assert "interrupted; nothing done is lost" in text
