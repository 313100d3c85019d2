"""How a run was made beside how a card says it was: one line per thing that may explain a difference.

Pure. A thing is the same, or differs, or is unknown: what the card or the run does not tell is never taken
as equal. What moves no score is a note.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evalkit.base import Frozen
from evalkit.report.differences import server_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evalkit.plan.model import ModelIdentity
    from evalkit.recipe.schema import Client
    from evalkit.report.card import Card
    from evalkit.report.results import Results

ORDER = (
    "model",
    "profile",
    "benchmark version",
    "data",
    "parameters",
    "prompt",
    "chat template",
    "reasoning",
    "sampling",
    "profile's other settings",
    "repeats",
    "judge",
    "server",
    "timeouts and retries",
    "artifacts",
    "card's notes",
)
"""Names of all checks, as they are shown."""
SNAPSHOT = re.compile(r"-\d{4}-?\d\d-?\d\d$")
"""The day at the end of a hosted model's name."""
State: TypeAlias = Literal["same", "differs", "unknown", "note"]


class Check(Frozen):
    """One thing that was looked at."""

    name: str
    state: State
    """`note`: it moves no score."""
    task: str | None
    """Null: of the whole run."""
    text: str


def check_run(card: Card, results: Sequence[Results], client: Client) -> Iterator[Check]:
    """What all tasks of a run share; `results` are those there are."""
    wanted = card.client
    yield Check(
        name="timeouts and retries",
        state="note",
        task=None,
        text=f"timeout_s {_shown(client.timeout_s)} (card {_shown(wanted.timeout_s)}), max_retries "
        f"{client.max_retries} (card {_shown(wanted.max_retries)}); an answer that did not come is "
        "missing, not wrong",
    )
    if not results:
        return
    model = results[0].provenance.model
    yield _model(card, model)
    template = model.chat_template
    yield Check(
        name="chat template",
        state="unknown",
        task=None,
        text=f"{'not known here' if template is None else f'sha256 {template[:12]} here'}; "
        "the card gives none",
    )
    facts = server_facts(results[0])
    said = ", ".join(
        f"{key} {_fact(value)}" for key, value in facts.items() if key in ("kind", "version")
    )
    yield Check(
        name="server",
        state="unknown",
        task=None,
        text=f"{said or 'not known'} here; the card gives none",
    )


def _model(card: Card, model: ModelIdentity) -> Check:
    """A folder of the repository's name may hold anything."""
    of = f" at {model.revision[:12]}" if model.revision else ""
    text, names = f"{model.source}{of}", " or ".join(card.models)
    state: State = "same" if model.source in card.models else "differs"
    if state == "differs" and model.source in [name.rpartition("/")[2] for name in card.models]:
        state, text = "unknown", f"named {text}"
    shown = text if state == "same" else f"{text} (card {names})"
    return Check(name="model", state=state, task=None, text=shown)


def check_task(card: Card, results: Results, missing_files: Sequence[str]) -> Iterator[Check]:
    """What one task was made with; `missing_files` are the artifacts that are not there."""
    entry = card.benchmarks[results.benchmark]
    settings, task = results.settings, results.task

    def check(name: str, state: State, text: str) -> Check:
        return Check(name=name, state=state, task=task, text=text)

    def compared(name: str, found: Any, wanted: Any, unit: str = "") -> Check:
        if wanted is None:
            return check(name, "unknown", f"{unit}{_shown(found)} here; the card gives none")
        if found == wanted:
            return check(name, "same", f"{unit}{_shown(found)}")
        return check(name, "differs", f"{unit}{_shown(found)} (card {_shown(wanted)})")

    yield compared("benchmark version", results.benchmark_version, entry.version)
    yield compared("profile", settings.profile, card.profile)
    yield _data(results, entry.data)
    yield from _keys("sampling", task, settings.generation, card.sampling(results.benchmark))
    yield from _keys("parameters", task, settings.params, entry.params)
    for name, other in settings.stand_ins.items():
        yield check("prompt", "unknown", stand_in_text(name, other))
    yield from _further(card, results)
    if card.reasoning is not None:
        yield _reasoning(card, results)
    if entry.judge is not None or settings.judge is not None:
        yield _judge(entry.judge, results)
    repeats = results.headline.repeats
    state: State = "same" if repeats == entry.repeats else "note"
    yield check(
        "repeats", state, f"{repeats}" + (f" (card {entry.repeats})" if state == "note" else "")
    )
    yield _artifacts(results, missing_files)
    yield from (check("card's notes", "unknown", note) for note in entry.notes)


def stand_in_text(name: str, other: str) -> str:
    """What to know of a prompt that stands in for another."""
    return f"{name} stands in for {other}, which was never published"


def other_judge(wanted: str | None, results: Results) -> str | None:
    """The judge that is not the card's; null where it is, or the card names none.

    A hosted model may have its owner before its name, and the day of a snapshot behind it where the other
    one names none. What a run served itself is another model, whatever it is called.
    """
    if wanted is None:
        return None
    found = _judge_name(results)
    if _own_judge(results):
        return f"{found}, served by the run"
    one, two = _without_owner(found), _without_owner(wanted)
    may_be = one == two or SNAPSHOT.sub("", one) == two or one == SNAPSHOT.sub("", two)
    return None if may_be else found


def _without_owner(name: str) -> str:
    return name.rpartition("/")[2]


def _judge(wanted: str | None, results: Results) -> Check:
    found, other = _judge_name(results), other_judge(wanted, results)
    state: State = "same"
    text = found
    if wanted is None:
        state, text = "unknown", f"{found} here; the card gives none"
    elif other is not None:
        state = "differs"
        text = f"{other} (card {wanted}): its score is not compared with the card's"
    elif _without_owner(found) != _without_owner(wanted):
        state, text = "unknown", f"{found} (card {wanted}, which may be another snapshot)"
    return Check(name="judge", state=state, task=results.task, text=text)


def _judge_name(results: Results) -> str:
    judge = results.settings.judge
    return "none" if judge is None else str(judge["deployment"]["served_model_name"])


def _own_judge(results: Results) -> bool:
    serving = ((results.settings.judge or {}).get("deployment") or {}).get("serving") or {}
    return bool(serving.get("kind", "external") != "external")


def _data(results: Results, known: Sequence[str]) -> Check:
    data = results.provenance.data
    text = f"sha256 {data.sha256[:12]}"
    state: State = "same" if data.sha256 in known else "differs" if known else "unknown"
    if state == "differs":
        text += f" (card {' or '.join(each[:12] for each in known)})"
    if data.altered:
        state, text = "differs", f"{text}; not a state that the benchmark knows"
    if state == "unknown":
        text += " here; the card gives none"
    return Check(name="data", state=state, task=results.task, text=text)


def _keys(
    name: str, task: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[Check]:
    """One check of all keys that are known, or one for each that differs."""
    different = {key: value for key, value in wanted.items() if found.get(key) != value}
    for key, value in different.items():
        text = f"{key} {_shown(found.get(key))} (card {_shown(value)})"
        yield Check(name=name, state="differs", task=task, text=text)
    if not wanted:
        yield Check(name=name, state="unknown", task=task, text="the card gives none")
    elif not different:
        text = ", ".join(f"{key} {_shown(value)}" for key, value in wanted.items())
        yield Check(name=name, state="same", task=task, text=text)


def _further(card: Card, results: Results) -> Iterator[Check]:
    """What differs from the profile, and is nothing the card speaks of: it may move the score, too."""
    entry = card.benchmarks[results.benchmark]
    spoken = {f"generation.{key}" for key in card.sampling(results.benchmark)}
    spoken |= {f"params.{key}" for key in entry.params} | {"repeats", "limit"}
    for each in results.settings.differs_from_profile:
        if each.key not in spoken:
            yield Check(
                name="profile's other settings",
                state="differs",
                task=results.task,
                text=f"{each.key} {_shown(each.value)} (profile {_shown(each.profile)})",
            )


def _reasoning(card: Card, results: Results) -> Check:
    """Whether the server takes reasoning out of the answers, as far as its settings tell."""
    serving = results.settings.serving
    off = _template_settings(results).get("enable_thinking") is False
    if off or card.reasoning == "none":
        same = off == (card.reasoning == "none")
        text = "switched off" if off else "on"
        state: State = "same" if same else "differs"
    elif serving["kind"] != "vllm":
        state, text = "unknown", f"served by kind {serving['kind']}"
    else:
        parser = serving.get("reasoning_parser")
        state, text = ("differs", "no reasoning_parser") if parser is None else ("same", parser)
    shown = "" if state == "same" else f" (card: {card.reasoning})"
    return Check(name="reasoning", state=state, task=results.task, text=f"{text}{shown}")


def _template_settings(results: Results) -> dict[str, Any]:
    """What the chat template was told: fields of the sampling, then what `request` changes in the body."""
    name = "chat_template_kwargs"
    request = results.settings.request
    sent = results.settings.generation.get("extra_body", {}).get(name)
    layers = (None if name in request.get("remove", ()) else sent, request.get("add", {}).get(name))
    return {
        key: value for layer in layers if isinstance(layer, dict) for key, value in layer.items()
    }


def _artifacts(results: Results, missing_files: Sequence[str]) -> Check:
    counts = results.counts
    found = [f"{name} is not there" for name in missing_files]
    if not results.complete:
        found.append(f"{counts.missing} of {counts.expected} units are missing")
    if results.not_run:
        found.append(f"not run: {', '.join(results.not_run)}")
    if results.problems:
        found.append(f"{len(results.problems)} problems in journals, named in results.json")
    text = "; ".join(found) or f"{counts.scored} of {counts.expected} units scored"
    return Check(
        name="artifacts", state="differs" if found else "same", task=results.task, text=text
    )


def _fact(value: Any) -> str:
    """What servers said of themselves: several differ, and some say nothing."""
    if isinstance(value, list):
        return " or ".join(map(_fact, value))
    return "unknown" if value is None else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
