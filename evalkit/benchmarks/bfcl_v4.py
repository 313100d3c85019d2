"""BFCL v4: 5106 entries of function calling in 22 categories (Patil et al., Berkeley Function-Calling
Leaderboard), with native tool calls.

Data, simulators and checkers are those of one release of the official package. Single answers are
compared with possible answers; dialogues run against simulators, and their calls are executed once
more beside the gold calls when they are graded; memory categories write a memory in conversations and
are asked about it later; web search needs a back end. A category that cannot run here is not run, and
then the headline is `overall_partial`, over what was run: nothing that did not happen counts as 0.

Profile `card` is the harness behind the card with two of its oddities: Java and JavaScript functions
are described as Python's, and descriptions say so twice once held-out functions have appeared.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.benchmarks.bfcl_data import Rendering, arrange, load_category, parts_of
from evalkit.benchmarks.bfcl_dialogue import step_of
from evalkit.benchmarks.bfcl_gold import IMPOSSIBLE, gold_solution, wrong_solution
from evalkit.benchmarks.bfcl_params import (
    VECTOR,
    BfclParams,
    choose_categories,
    further_checksums,
)
from evalkit.benchmarks.bfcl_trial import first_question, replayed_question
from evalkit.benchmarks.bfcl_web import WebWorld
from evalkit.benchmarks.bfcl_worlds import hold_chain, hold_entry, simulated
from evalkit.benchmarks.contract import (
    Benchmark,
    Dataset,
    SandboxNeeds,
    Score,
    Solution,
)
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.fields import require_unique_ids
from evalkit.clock import SYSTEM_CLOCK
from evalkit.errors import DataError, ScorerError
from evalkit.plan.model import DataProvenance
from evalkit.scoring.bfcl_categories import (
    CATEGORIES,
    IRRELEVANCE,
    MEMORY,
    MULTI_TURN,
    RELEVANCE,
    WEB_SEARCH,
    subset_weights,
)
from evalkit.scoring.bfcl_checks import (
    Judged,
    calls_of,
    final_text,
    judge_calls,
    judge_final_text,
    judge_relevance,
)
from evalkit.scoring.bfcl_package import (
    DIGEST,
    EXTRA,
    RELEASE,
    SOURCE,
    load_package,
    package_folder,
)
from evalkit.scoring.bfcl_simulators import PRELOAD, VECTOR_PRELOAD, Simulators

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evalkit.benchmarks.bfcl_choice import BackendName
    from evalkit.benchmarks.bfcl_dialogue import Dialogue
    from evalkit.benchmarks.contract import GradingTools, ModelHandle, Question, Sample
    from evalkit.benchmarks.data import DataAccess
    from evalkit.recipe.schema import Profile
    from evalkit.scoring.bfcl_package import Package

ACCURACY = "accuracy"
ENTRIES = "entries"
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 8192}
WRONG_LENGTH = "multi_turn:force_terminated"


class BfclV4(Benchmark[BfclParams]):
    """Does it call the right functions?"""

    name = "bfcl_v4"
    version = "1"
    title = "BFCL v4"
    description = (
        "5106 entries of function calling: single, in dialogues, with memory, with the web."
    )
    licence = "Apache-2.0"
    source = DataSource(generated=True)
    metric = ACCURACY
    score_weights: ClassVar[Mapping[str, str]] = {ACCURACY: ENTRIES}
    subsets = CATEGORIES
    votes = False
    single_call = False
    uses_programs = True
    grader = "sandbox"
    params_type = BfclParams
    knobs: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {"java_js_schema": "card", "double_hint": True},
        "fixed": {"java_js_schema": "fixed", "double_hint": False},
    }
    generation: ClassVar[Mapping[Profile, Mapping[str, Any]]] = {
        "card": {**SAMPLING, "presence_penalty": 1.0},
        "fixed": {**SAMPLING, "presence_penalty": 0.0},
    }
    repeats = 1
    expected_tokens = 3_000

    def load(self, access: DataAccess) -> Dataset:
        """One sample per entry, and per scenario of a memory; one of each category first.

        Raises DataError where the package is missing or another release, and for a category that is
        named and cannot be run here.
        """
        package = load_package(self.params.package_path)
        rendering = Rendering(
            card_schema=self.params.java_js_schema == "card",
            double_hint=self.params.double_hint,
        )
        categories = choose_categories(self.params)
        samples = [
            sample
            for category in categories
            for sample in load_category(package, category, rendering)
        ]
        require_unique_ids(samples, self.name)
        provenance = DataProvenance(
            source=SOURCE,
            revision=RELEASE,
            sha256=DIGEST,
            n_rows=sum(len(s.target) if s.subset in MEMORY else 1 for s in samples),
            licence=self.licence,
            altered=False,
        )
        return Dataset(arrange(samples), provenance, further_checksums(self.params, categories))

    def parts(self, sample: Sample) -> Mapping[str, int]:
        """Single calls, dialogues, and conversations that write a memory."""
        return parts_of(sample)

    def known_weight(self, sample: Sample) -> float:
        """Its entries: one, or a scenario's questions."""
        return float(len(sample.target)) if sample.subset in MEMORY else 1.0

    def first_call(self, samples: Sequence[Sample]) -> Question | None:
        """The longest first call, with its tools: a server that does not parse calls refuses it."""
        return first_question(samples)

    def replayed_call(self, samples: Sequence[Sample]) -> Question | None:
        """The call behind the first execution of a dialogue."""
        return replayed_question(samples, self.params.reasoning_replay)

    async def solve(self, sample: Sample, model: ModelHandle) -> Solution:
        """One call, a dialogue, or all dialogues of a scenario."""
        replay = self.params.reasoning_replay
        category = sample.data["category"]
        if category in MEMORY:
            chain = await hold_chain(sample, model, self._simulators(model), replay)
            ends = {name: each.outcome.value for name, each in chain.conversations.items()}
            turns = {name: each.turns for name, each in chain.questions.items()}
            return Solution("", chain.outcome, {"questions": turns, "conversations": ends})
        if category in WEB_SEARCH:
            # brings along an HTTP client, which only a search needs
            from evalkit.benchmarks.bfcl_backends import make_backend

            backend = make_backend(
                _named(self.params.web_search),
                self.params.web_recording,
                allow_private=self.params.web_private_addresses,
            )
            world = WebWorld(model, backend, sample.id, SYSTEM_CLOCK.wall)
            return _dialogue(await hold_entry(sample, model, world, replay))
        if category in MULTI_TURN:
            simulators = simulated(sample, model, self._simulators(model))
            return _dialogue(await hold_entry(sample, model, simulators, replay))
        reply = await model.chat(sample.messages, tools=json.loads(sample.data["tools"]))
        return Solution(reply.content, reply.outcome, {"step": step_of(reply)}, reply.detail)

    async def grade(self, sample: Sample, solution: Solution, tools: GradingTools) -> Any:
        """Of a multi-turn dialogue the official verdict, with all calls executed in the sandbox; other
        answers need no execution and are judged in `score`."""
        if sample.data["category"] not in MULTI_TURN:
            return {"execution": "none"}
        turns = solution.data["turns"]
        if len(turns) != len(sample.target):
            return {"valid": False, "error_type": WRONG_LENGTH}
        request = {
            "do": "check",
            "id": sample.id,
            "classes": sample.data["classes"],
            "config": json.loads(sample.data["config"]),
            "turns": [[c for step in turn if (c := calls_of(step))] for turn in turns],
            "gold": sample.target,
        }
        answer = await Simulators(tools.run, self._folder()).ask(request)
        if answer.value is None:
            return {"valid": False, "error_type": f"evalkit:execution ({answer.ended})"}
        return dict(answer.value)

    def scores_ungraded(self, sample: Sample) -> bool:
        """All but multi-turn dialogues, whose calls are executed first."""
        return sample.data["category"] not in MULTI_TURN

    def sandbox(self) -> SandboxNeeds:
        """The package, and what its simulators import. Raises ScorerError for what is missing."""
        if missing := [name for name in PRELOAD if find_spec(name) is None]:
            raise ScorerError(f"BFCL's simulators need {', '.join(missing)}", hint=f"Type: {EXTRA}")
        shown, preload, encoder = [self._folder()], list(PRELOAD), self.params.encoder
        if encoder is not None and self.params.why_not(VECTOR) is None:
            shown.append(encoder)
            preload += VECTOR_PRELOAD
        return SandboxNeeds(readonly=tuple(shown), preload=tuple(preload))

    def score(self, sample: Sample, solution: Solution) -> Score:
        """How many of the sample's entries are right (one, or a scenario's questions)."""
        try:
            package = load_package(self.params.package_path)
        except DataError as error:
            raise ScorerError(str(error)) from error
        judged = _judge(package, sample, solution)
        right = sum(each.valid for each in judged.values())
        answer = _describe_chain(judged) if sample.subset in MEMORY else _answer(sample, solution)
        return Score({ACCURACY: float(right), ENTRIES: float(len(judged))}, answer)

    def subset_weights(self, totals: Mapping[str, float]) -> Mapping[str, Mapping[str, float]]:
        """The overall score and its parts over the categories that there are."""
        return subset_weights(totals)

    def gold(self, sample: Sample) -> Solution | None:
        """The first of the possible answers; of a dialogue all gold calls of each turn at once."""
        return gold_solution(sample)

    def why_no_gold(self, sample: Sample) -> str | None:
        """What keeps the official checker from accepting any answer."""
        return IMPOSSIBLE.get(sample.id)

    def wrong(self, sample: Sample) -> Solution:
        """An answer that calls or says something else, or nothing."""
        return wrong_solution(sample)

    def _folder(self) -> Path:
        try:
            return package_folder(self.params.package_path)
        except DataError as error:
            raise ScorerError(str(error)) from error

    def _simulators(self, model: ModelHandle) -> Simulators:
        return Simulators(model.run, self._folder(), self.params.encoder)


def _named(backend: BackendName | None) -> BackendName:
    if backend is None:
        raise DataError("bfcl_v4: params.web_search names no back end")
    return backend


def _dialogue(dialogue: Dialogue) -> Solution:
    last = final_text(dialogue.turns[-1]) if dialogue.turns else None
    text = last if isinstance(last, str) else ""
    return Solution(text, dialogue.outcome, {"turns": dialogue.turns})


def _judge(package: Package, sample: Sample, solution: Solution) -> dict[str, Judged]:
    """The verdict on each entry of a sample."""
    category, data = sample.data["category"], solution.data
    if category in MEMORY:
        return {
            name: judge_final_text(package, data["questions"][name], gold)
            for name, gold in sample.target.items()
        }
    if category in MULTI_TURN:
        if solution.grading is None:
            raise ScorerError(f"{sample.id} has not been graded", hint="Type `evalkit score`.")
        return {sample.id: Judged(solution.grading["valid"], solution.grading.get("error_type"))}
    if category in WEB_SEARCH:
        return {sample.id: judge_final_text(package, data["turns"], sample.target)}
    if category in (*IRRELEVANCE, *RELEVANCE):
        return {sample.id: judge_relevance(package, data["step"], category)}
    functions = sample.data["functions"]
    return {sample.id: judge_calls(package, data["step"], functions, sample.target, category)}


def _describe_chain(judged: Mapping[str, Judged]) -> str:
    return "; ".join(
        f"{name}: {'right' if each.valid else 'wrong'}" for name, each in judged.items()
    )


def _answer(sample: Sample, solution: Solution) -> str | None:
    """What was answered, as text; null where there is nothing."""
    if "turns" in solution.data:
        steps = [step for turn in solution.data["turns"] for step in turn]
        return json.dumps(steps[-1], ensure_ascii=False) if steps else None
    step = solution.data["step"]
    if isinstance(step, list) and step and isinstance(step[0], dict):
        return json.dumps(step, ensure_ascii=False)
    return solution.text if solution.text.strip() else None
