"""Trying a hosted judge: a refusal is an error that says what to mend, silence is a warning."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from evalkit.benchmarks.registry import make_benchmark
from evalkit.client.trial import Patience
from evalkit.cluster import judge_check
from evalkit.cluster.failures import is_retryable
from evalkit.cluster.judge_check import (
    HostedJudge,
    check_judges,
    check_judges_here,
    distinct,
    find_judges,
)
from evalkit.errors import EndpointError, FailureKind
from evalkit.plan.build import plan_deployment, plan_judge
from evalkit.plan.model import ModelIdentity
from evalkit.recipe.schema import Generation
from evalkit.recipe.serving import ExternalServing, VllmServing
from evalkit.store.layout import RunFolder
from tests.builders import make_plan, make_prepared
from tests.unit.client.servers import Script, completion, refuses, says, serve, serve_anything

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan.model import JudgePlan
    from evalkit.recipe.serving import AnyServing

KEY = {"JUDGE_KEY": "sk-very-secret"}


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_check, "PATIENCE", Patience(5.0, 5.0, 0))


def plan_of(serving: AnyServing, **generation: Any) -> JudgePlan:
    """The judge `j`, which is model `tiny`."""
    return plan_judge(
        ModelIdentity(name="j", source="tiny"),
        plan_deployment(serving, "j", "tiny", revision=None),
        Generation(**generation),
        parallelism=4,
        is_hub=False,
    )


def hosted(
    url: str, overrides: dict[str, Any] | None = None, **changes: Any
) -> tuple[HostedJudge, ...]:
    """One judge, at a URL."""
    own = {"api_key_env": "JUDGE_KEY", "check_models": False, **changes}
    serving = ExternalServing(kind="external", base_url=url, **own)
    plan = plan_of(serving, temperature=0.0, max_tokens=7)
    return (HostedJudge("hle", plan, serving, overrides or {}),)


async def test_is_asked_as_grading_asks() -> None:
    """Whole, not streamed, with its key, its settings and what the benchmark adds."""
    seen: list[tuple[str, dict[str, Any]]] = []

    async def keep(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers["Authorization"], await request.json()))
        return web.json_response(completion("yes"))

    async with serve(keep) as url:
        assert await check_judges(hosted(url, {"response_format": {"type": "json"}}), KEY) == []
    [(key, body)] = seen
    assert key == "Bearer sk-very-secret"
    assert not body["stream"]
    del body["messages"], body["stream"]
    assert body == {
        "model": "tiny",
        "temperature": 0.0,
        "max_completion_tokens": 7,
        "seed": 0,
        "response_format": {"type": "json"},
    }


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "Check the key in JUDGE_KEY (judges.j.serving.api_key_env). "),
        (403, "Check the key in JUDGE_KEY (judges.j.serving.api_key_env). "),
        (404, "Check judges.j.id and judges.j.serving.base_url. "),
        (308, "Check judges.j.id and judges.j.serving.base_url. "),
        (400, "Check judges.j.generation, where null leaves a field out. "),
    ],
)
async def test_refusal(status: int, hint: str) -> None:
    """It names the judge, its key's variable and the key of the recipe, never the key itself."""
    async with serve(Script(refuses(status, "no, not with sk-very-secret"))) as url:
        with pytest.raises(EndpointError) as caught:
            await check_judges(hosted(url), KEY)
    start = f"judges.j: the judge tiny at {url} refuses what would be asked of it for tasks.hle: "
    assert caught.value.message == f"{start}HTTP {status}: no, not with ***"
    assert str(caught.value.hint).startswith(hint)
    assert caught.value.kind is FailureKind.JUDGE
    assert not is_retryable(caught.value.kind)


async def test_judge_that_wants_a_key() -> None:
    """A recipe without one is told where it goes."""
    async with serve(Script(refuses(401))) as url:
        with pytest.raises(EndpointError) as caught:
            await check_judges(hosted(url, api_key_env=None), {})
    assert "name its variable in judges.j.serving.api_key_env" in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_trouble_that_may_pass(status: int) -> None:
    """A limit or an outage of now says nothing of when it is needed."""
    async with serve(Script(refuses(status, "later"))) as url:
        [warning] = await check_judges(hosted(url), KEY)
    start = f"judges.j: the judge tiny at {url} gave no answer when it was tried: it answers HTTP "
    assert warning.startswith(f"{start}{status}: later. ")
    assert "`evalkit score`" in warning


def test_nobody_is_there(unused_tcp_port: int) -> None:
    """From a node without a way out the answers are generated all the same."""
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    [warning] = check_judges_here(hosted(url), KEY)
    assert f"gave no answer when it was tried: no answer from {url}" in warning


async def test_something_else_answers() -> None:
    """A 200 that is no chat completion is a wrong address."""

    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>sign in, sk-very-secret</html>", content_type="text/html")

    async with serve(page) as url:
        with pytest.raises(EndpointError) as caught:
            await check_judges(hosted(url), KEY)
    text = str(caught.value)
    assert text.startswith(f"judges.j: the judge tiny at {url} cannot judge tasks.hle: not a chat")
    assert "judges.j.serving.base_url" in text
    assert "sk-very-secret" not in text


async def test_filtered_question_passes() -> None:
    """A judge whose filter dislikes the question is one that works."""
    body = {"error": {"message": "filtered", "code": "content_filter"}}
    async with serve(Script(lambda: web.json_response(body, status=400))) as url:
        assert await check_judges(hosted(url), KEY) == []


async def test_list_of_models_is_asked_for_as_grading_does() -> None:
    """A judge that answers and is not in its own list would fail when it is asked: now, then."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        is_list = request.path.endswith("/models")
        return web.json_response({"data": [{"id": "another"}]} if is_list else completion("yes"))

    async with serve_anything(answer) as url:
        with pytest.raises(EndpointError) as caught:
            await check_judges(hosted(f"{url}/v1", check_models=True), KEY)
    assert caught.value.message.startswith("judges.j: the judge tiny at ")
    assert "another" in caught.value.message


async def test_several_are_asked_at_once() -> None:
    """Each has its say."""
    async with serve(Script(says("yes"))) as good, serve(Script(refuses(500))) as bad:
        [warning] = await check_judges((*hosted(good), *hosted(bad)), KEY)
    assert bad in warning


def test_judges_that_are_needed(tmp_path: Path) -> None:
    """Each hosted one once; of those that evalkit serves, none: they are not there yet."""
    external = ExternalServing(kind="external", base_url="http://h/v1")
    judges = {
        "one": plan_of(external),
        "same": plan_of(external),
        "other": plan_of(external, top_p=0.5),
        "served": plan_of(VllmServing()),
        "none": None,
    }
    tasks = [make_prepared(name=name, judge=judge) for name, judge in judges.items()]
    plan = make_plan(*tasks)
    found = find_judges(RunFolder(tmp_path), plan, plan.tasks)
    assert {judge.plan.generation.top_p for judge in found} == {None, 0.5}
    assert len(found) == 2


def test_runs_share_a_judge() -> None:
    """Forty checkpoints with one judge are one trial; another address, setting or form is another."""
    [judge] = hosted("http://h/v1")
    others = [
        *hosted("http://h/v1", {"response_format": {}}),
        *hosted("http://i/v1"),
        *hosted("http://h/v1", check_models=True),
    ]
    many = [*hosted("http://h/v1") * 40, *others, replace(judge, task="another")]
    assert distinct(many) == [judge, *others]


def test_official_judge_is_tried_with_its_form() -> None:
    """A judge that cannot answer in JSON is found before, too."""
    official = make_benchmark("hle", {"judge_prompt": "judge/hle-official"}, "card")
    fields = orjson.loads(orjson.dumps(official.judge_overrides()))
    assert fields["response_format"]["json_schema"]["strict"]
    assert make_benchmark("hle", {}, "card").judge_overrides() == {}
