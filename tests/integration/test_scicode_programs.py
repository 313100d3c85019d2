"""SciCode's programs in a real sandbox, with the pinned Python and self-made targets of every kind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from evalkit.benchmarks.contract import Sample, Solution
from evalkit.benchmarks.data import DataAccess
from evalkit.benchmarks.registry import make_benchmark
from evalkit.benchmarks.scicode import SciCode
from evalkit.benchmarks.scicode_data import WHEEL_FOLDER
from evalkit.errors import ScorerError
from evalkit.recipe.schema import DataOverride
from evalkit.scoring import scicode_environment, scicode_inside
from evalkit.scoring.sandbox import Program, ProgramResult, SandboxPool, find_sandbox
from evalkit.scoring.scicode_environment import PRELOAD, PYTHON
from tests.unit.vectors import SHARED, TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WRITER = TESTS / "integration" / "scicode_targets.py"
AGAINST_WHEEL = TESTS / "integration" / "scicode_against_wheel.py"
OWN = TESTS / "data" / "samples" / "scicode"
ROOTS = {
    "902.1": "def discriminant(a, b, c):\n    return b**2 - 4 * a * c",
    "902.2": "def roots(a, b, c):\n    root = discriminant(a, b, c) ** 0.5\n"
    "    return (-b - root) / (2 * a), (-b + root) / (2 * a)",
}
PASSED = {"result": "passed"}


class Tools:
    """What a `grade` gets: programs run in a real sandbox; `programs` are those that were run."""

    def __init__(self, pool: SandboxPool) -> None:
        self._pool = pool
        self.programs: list[Program] = []

    async def run(self, program: Program) -> ProgramResult:
        """In the pool."""
        self.programs.append(program)
        return await asyncio.to_thread(self._pool.run_one, program)

    async def judge(self, *_: Any, **__: Any) -> Any:
        """SciCode asks no judge."""
        raise AssertionError


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file as test_data.h5, taken for it."""
    folder = tmp_path_factory.mktemp("targets")
    path = folder / "test_data.h5"
    subprocess.run([PYTHON, WRITER, path], check=True)
    with pytest.MonkeyPatch.context() as patch:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        patch.setattr(scicode_environment, "TEST_DATA_SHA256", digest)
        yield path


def make(targets: Path, **params: Any) -> SciCode:
    """The benchmark with the targets."""
    benchmark = make_benchmark("scicode", {"test_data": str(targets), **params}, "card")
    assert isinstance(benchmark, SciCode)
    return benchmark


def load(folder: Path) -> Sequence[Sample]:
    """The problems of a folder."""
    access = DataAccess("scicode", DataOverride(path=str(folder), allow_altered=True), folder)
    benchmark = make_benchmark("scicode", {}, "card")
    return benchmark.load(access).samples


@pytest.fixture(scope="module")
def own() -> Sequence[Sample]:
    """The two self-made problems."""
    return load(OWN)


@pytest.fixture(scope="module")
def pool(targets: Path) -> Iterator[SandboxPool]:
    """The sandbox that the benchmark asks for."""
    needs = make(targets).sandbox()
    assert (needs.interpreter, needs.readonly, needs.preload) == (PYTHON, (targets,), PRELOAD)
    env = dict(os.environ)
    sandbox = find_sandbox(env, interpreter=needs.interpreter, readonly=needs.readonly)
    with SandboxPool(sandbox, workers=1, preload=needs.preload) as running:
        yield running


def grade(benchmark: SciCode, sample: Sample, code: dict[str, str], pool: SandboxPool) -> Any:
    """What became of each step, by number."""
    solution = Solution("", data={"code": code})
    grading = asyncio.run(benchmark.grade(sample, solution, Tools(pool)))
    assert grading["timeout_s"] == benchmark.params.timeout_s
    score = benchmark.score(sample, replace(solution, grading=grading))
    passed = [step for step, found in grading["steps"].items() if found == PASSED]
    assert score.values["subtask_accuracy"] == len(passed)
    return grading["steps"]


def test_right_code_passes_with_targets_of_every_kind(
    own: Sequence[Sample], targets: Path, pool: SandboxPool
) -> None:
    """Numbers, texts, arrays, tuples, lists, dicts, COO, CSR and BSR; each step sees those before."""
    benchmark = make(targets)
    gold = benchmark.gold(own[0])
    assert gold is not None
    steps = [f"901.{n}" for n in range(1, 5)]
    assert grade(benchmark, own[0], gold.data["code"], pool) == dict.fromkeys(steps, PASSED)
    assert grade(benchmark, own[1], ROOTS, pool) == dict.fromkeys(ROOTS, PASSED)


# What is changed in the right code of a step, and the steps that fail by it: those after it use it.
MISTAKES = {
    "number": ("x * factor", "x * factor + 1e-3", {"901.1", "901.2"}),
    "text": ("'other'", "'another'", {"901.2"}),
    "tuple": ("return word, total, ends", "return word, total", {"901.2", "901.3"}),
    "value in a dict": ("'total': total", "'total': total + 1", {"901.3"}),
    "text in a dict": ("'word': word", "'word': word + '!'", {"901.3"}),
    "key of a dict": ("{float(i): value", "{float(i) + 1: value", {"901.3"}),
    "symbol": ("sympy.Symbol('m')", "sympy.Symbol('n')", {"901.3"}),
    "matrix in a dict": ("'matrix': sparse.csr_matrix(np.diag(x))", "'matrix': None", {"901.3"}),
    "csr": ("csr = sparse.csr_matrix(dense)", "csr = sparse.csr_matrix(dense.T * 2)", {"901.4"}),
    "coo": ("coo = sparse.coo_matrix(dense)", "coo = sparse.coo_matrix(-dense)", {"901.4"}),
    "bsr": ("bsr = sparse.bsr_matrix(dense, ", "bsr = sparse.bsr_matrix(-dense, ", {"901.4"}),
    "list": ("for value in x]", "for value in x[:1]]", {"901.4"}),
}


@pytest.mark.parametrize(("old", "new", "failing"), MISTAKES.values(), ids=MISTAKES)
def test_wrong_code_fails(
    own: Sequence[Sample], targets: Path, pool: SandboxPool, old: str, new: str, failing: set[str]
) -> None:
    """One mistake fails the step that has it, and those whose tests meet it, and no other."""
    benchmark = make(targets)
    gold = benchmark.gold(own[0])
    assert gold is not None
    code = {number: text.replace(old, new) for number, text in gold.data["code"].items()}
    assert code != gold.data["code"]
    found = grade(benchmark, own[0], code, pool)
    assert {step for step, each in found.items() if each["result"] == "failed"} == failing
    assert {step for step, each in found.items() if each == PASSED} == found.keys() - failing


TRICKS = {
    "exit": ("import sys; sys.exit(0)", "early_exit"),
    "exit in a function": ("def discriminant(a, b, c): raise SystemExit", "early_exit"),
    "hard exit": ("__import__('os')._exit(0)", "early_exit"),
    "exit when done": (
        "import atexit; atexit.register(__import__('os')._exit, 0); 1 / 0",
        "early_exit",
    ),
    "print": (
        "print('0' * 32, 'ended'); print('ended'); print('OK'); __import__('os')._exit(0)",
        "early_exit",
    ),
    "word on standard input": (
        "import sys; os = __import__('os'); said = sys.stdin.read()\ntry: os.lseek(0, 0, 0)\n"
        "except OSError: pass\n__import__('os').write(1, (said + os.read(0, 9999).decode() + "
        "' ended').encode()); os._exit(0 if said == '' else 1)",
        "early_exit",
    ),
    "replaced judge": ("np.allclose = lambda *a, **k: True", "failed"),
    "swallowed assertion": ("discriminant = None", "failed"),
    "syntax error": ("def discriminant(a, b, c):", "failed"),
    "no function": ("", "failed"),
    "loop": ("while True: pass", "timeout"),
    "sleep": ("__import__('time').sleep(60)", "timeout"),
    "output": ("while True: print('x' * 10**6)", "output_limit"),
    "null byte": ("x = '\0'", "failed"),
    "half a surrogate pair": ("x = '\ud800'", "failed"),
}


@pytest.mark.parametrize(("code", "result"), TRICKS.values(), ids=TRICKS)
def test_nothing_but_the_end_of_the_tests_passes(
    own: Sequence[Sample], targets: Path, pool: SandboxPool, code: str, result: str
) -> None:
    """Who ends early, prints, or replaces what judges has not passed; time-outs are told apart."""
    timeout_s = 1.5 if result == "timeout" else 100
    found = grade(make(targets, timeout_s=timeout_s), own[1], {**ROOTS, "902.1": code}, pool)
    assert [each["result"] for each in found.values()] == [result, result]


def test_errors_are_shown(own: Sequence[Sample], targets: Path, pool: SandboxPool) -> None:
    """A failed step has the last line of its traceback, cut."""
    code = {"902.1": "raise ValueError('x' * 999)", "902.2": ROOTS["902.2"]}
    found = grade(make(targets), own[1], code, pool)
    assert found["902.1"]["error"] == ("ValueError: " + "x" * 999)[:200]


def test_steps_without_an_answer_are_not_run(
    own: Sequence[Sample], targets: Path, pool: SandboxPool
) -> None:
    """After a full context window: no program, and a result all the same."""
    solution = Solution("", data={"code": {"902.1": ROOTS["902.1"]}})
    tools = Tools(pool)
    grading = asyncio.run(make(targets).grade(own[1], solution, tools))
    assert grading["steps"] == {"902.1": PASSED, "902.2": {"result": "not_answered"}}
    assert len(tools.programs) == 1


def test_each_program_has_its_own_word(
    own: Sequence[Sample], targets: Path, pool: SandboxPool
) -> None:
    """It stands in no file of the program, and in none of another's input."""
    tools = Tools(pool)
    asyncio.run(make(targets).grade(own[1], Solution("", data={"code": ROOTS}), tools))
    first, second = (program.stdin.split(b'"')[3] for program in tools.programs)
    assert (len(first), len(second), first == second) == (32, 32, False)
    for program in tools.programs:
        assert first not in b"".join(program.files.values())
        assert program.wall_s == 30


def test_targets_that_lack_a_test_are_our_failure(
    own: Sequence[Sample], targets: Path, pool: SandboxPool
) -> None:
    """A step that is not in the file is a ScorerError, and not a failed step."""
    steps = [{**own[1].data["steps"][0], "number": "902.9"}]
    sample = replace(own[1], data={**own[1].data, "steps": steps})
    code = Solution("", data={"code": {"902.9": ROOTS["902.1"]}})
    with pytest.raises(
        ScorerError, match=r"program of step 902\.9 could not begin .*902\.9/test1 is not"
    ):
        asyncio.run(make(targets).grade(sample, code, Tools(pool)))


def test_gold_of_the_wrong_kind_scores_nothing(
    own: Sequence[Sample], targets: Path, pool: SandboxPool
) -> None:
    """What the benchmark offers as a wrong answer, an early exit, gets no mark."""
    benchmark = make(targets)
    for sample in own:
        found = grade(benchmark, sample, benchmark.wrong(sample).data["code"], pool)
        assert {each["result"] for each in found.values()} == {"early_exit"}


def test_helpers_do_what_the_wheels_functions_do(tmp_path: Path) -> None:
    """On random targets and values of every kind: the same is read, and comparisons give the same
    answer or raise the same. Each answer is met often."""
    helpers = Path(scicode_inside.__file__).with_name("helpers.py")
    done = subprocess.run(
        [PYTHON, AGAINST_WHEEL, helpers, WHEEL_FOLDER, tmp_path / "targets.h5", "150"],
        check=True,
        capture_output=True,
    )
    found = orjson.loads(done.stdout)
    assert found["differing"] == []
    for name in ("cmp_tuple_or_list", "are_dicts_close"):
        assert all(found["answers"][f"{name} {answer}"] > 50 for answer in ("True", "False"))


def test_the_authors_solutions_run(pool: SandboxPool) -> None:
    """All code of the 15 dev problems runs together with its imports; the targets are not here."""
    n_steps = 0
    for sample in load(SHARED / "scicode"):
        if sample.target is not None:
            gold = make_benchmark("scicode", {}, "card").gold(sample)
            assert gold is not None
            n_steps += len(gold.data["code"])
            text = "\n".join([sample.data["dependencies"], *gold.data["code"].values()])
            result = pool.run_one(Program(source=f"{text}\nprint('end')", wall_s=30, cpu_s=30))
            assert result.stdout.endswith(b"end\n"), (sample.id, result.stderr)
    assert n_steps == 50


def test_every_import_of_the_problems_works(pool: SandboxPool) -> None:
    """The pinned Python has all that the 80 problems import, `simps` and `mplot3d` among it."""
    imports = {sample.data["dependencies"] for sample in load(SHARED / "scicode")}
    for source in sorted(imports):
        result = pool.run_one(Program(source=source, wall_s=60, cpu_s=60))
        assert result.exit_code == 0, (source, result.stderr)
    everything = "\n".join(imports)
    assert "import simps" in everything
    assert "mplot3d" in everything
