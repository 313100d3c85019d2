"""Who judged a task's answers, on what, and what that has cost, for its results.

Like the other facts of a run they explain a score and move none: what cannot be read is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from evalkit.recipe.serving import ExternalServing, price_of
from evalkit.report.facts import read_servers, sum_gpu_seconds
from evalkit.report.replied import cost_of
from evalkit.report.results import JudgeFacts, JudgeTokens

if TYPE_CHECKING:
    from evalkit.plan.model import TaskPlan
    from evalkit.report.findings import Findings


def judge_facts(task: TaskPlan, findings: Findings, problems: list[str]) -> JudgeFacts | None:
    """Those of a task whose shards were all read; null where no judge is asked."""
    if task.judge is None or findings.plan is None:
        return None
    deployment = task.judge.deployment
    serving = deployment.serving
    is_hosted = isinstance(serving, ExternalServing)
    servers = read_servers(findings.place, problems)
    usage = findings.usage
    return JudgeFacts(
        name=task.judge.model.name,
        model=deployment.served_model_name,
        kind="hosted" if is_hosted else "served",
        url=bare_url(serving.base_url) if isinstance(serving, ExternalServing) else None,
        servers=servers,
        gpu_seconds=sum_gpu_seconds(servers),
        calls=usage.calls,
        tokens=JudgeTokens(
            prompt=usage.prompt_tokens,
            completion=usage.completion_tokens,
            reasoning=usage.reasoning_tokens,
            unknown=usage.unknown,
        ),
        cost=cost_of(
            price_of(serving),
            (usage.charged_prompt, usage.charged_completion, usage.charged_cached),
            usage.calls,
            usage.uncounted,
        ),
    )


def bare_url(url: str) -> str:
    """A URL without what may be a secret in it: user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
