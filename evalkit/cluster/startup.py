"""What is tried before the first unit, so that what would fail for hours fails in seconds.

Before a server is started: the sandbox on this node, and judges that somebody else hosts. Once it is
ready: a real request of each task, and whether reasoning that is sent back to it is read.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from evalkit.client.preflight import preflight
from evalkit.client.replay import try_replay
from evalkit.cluster.facilities import check_sandboxes
from evalkit.cluster.judge_check import check_judges, find_judges
from evalkit.cluster.runlog import note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evalkit.benchmarks.contract import Question
    from evalkit.client.request import Request, RequestBuilder
    from evalkit.client.target import Target
    from evalkit.cluster.session import Attending
    from evalkit.cluster.units import TaskWork

log = logging.getLogger("evalkit.worker")


def first_request(builder: RequestBuilder, question: Question) -> Request:
    """The request that tries a server, as a call of the task sends it. Raises ScorerError."""
    body = question.body
    if body is None:
        return builder.chat(question.messages, repeat=0, tools=question.tools)
    prompt = body.get("prompt")
    if body.get("echo") and isinstance(prompt, list | tuple) and len(prompt) > 1:
        return builder.loglikelihood(prompt[:-1], prompt[-1:])  # nothing is sampled
    return builder.relay(question.route, body, repeat=0)


class Startup:
    """The checks of one deployment's tasks, each once however many servers follow each other."""

    def __init__(self, attending: Attending, works: Mapping[str, TaskWork]) -> None:
        self._all = attending
        self._works = works
        self._tried: set[str] = set()
        self._replay: dict[str, Any] = {}
        """Whether the server reads replayed reasoning, by task."""

    async def before_server(self) -> None:
        """Raises ScorerError where a task needs a sandbox that cannot be had here, EndpointError for a
        judge that refuses us, DrainedError."""
        attending = self._all
        await attending.drain.unless(check_sandboxes(self._works))
        tasks = [work.plan for work in self._works.values()]
        judges = find_judges(attending.attempt.folder, attending.plan, tasks)
        new = [judge for judge in judges if judge not in attending.judges]
        attending.judges.extend(new)
        for text in await attending.drain.unless(check_judges(new, attending.env)):
            self._warn(text)

    async def with_server(self, target: Target) -> dict[str, Any]:
        """Send a request of each task; what was found out about the server, as its facts have it.

        Raises EndpointError for a task that the server refuses, InfraError when it is gone, DrainedError.
        """
        for name, work in self._works.items():
            question = work.benchmark.first_call(work.samples)
            if name in self._tried or question is None:
                continue
            request = first_request(work.builder, question)
            await self._all.drain.unless(preflight(target, request, task=name))
            await self._try_replay(target, name, work)
            self._tried.add(name)
        self._all.report.detail = None
        return {"reasoning_replay": dict(self._replay)}

    async def _try_replay(self, target: Target, name: str, work: TaskWork) -> None:
        question = work.benchmark.replayed_call(work.samples)
        if question is None:
            return
        trying = try_replay(target, work.builder, question.messages, question.tools)
        found = await self._all.drain.unless(trying)
        self._replay[name] = found.to_json()
        log.info("tasks.%s: replayed reasoning is %s (%s)", name, found.effect, found)
        if found.effect == "ignored":
            self._warn(
                f"tasks.{name}: the server does not read the reasoning that is sent back to it (its "
                f"prompt has {found.without} tokens with and without it), so its model answers "
                "without what it thought before. Its chat template may leave it out on purpose; "
                "compare scores with those of a server that does the same."
            )

    def _warn(self, text: str) -> None:
        """Say what a person should know, in the logs and in the status."""
        attending = self._all
        log.warning("%s", text)
        note(attending.attempt.folder, attending.clock, f"{attending.attempt.id}: {text}")
        attending.report.warnings.append(text)
