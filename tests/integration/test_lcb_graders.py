"""The three graders on programs in a real sandbox: every vector, their quirks, and programs that cheat."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.lcb import (
    PRELOAD,
    Cases,
    Grader,
    ResultCode,
    Task,
    Verdict,
    grade_code,
    rounds,
)
from evalkit.scoring.sandbox import Ending, Program, ProgramResult, SandboxPool, find_sandbox
from tests.unit.vectors import TESTS

if TYPE_CHECKING:
    from collections.abc import Iterator


GRADERS: tuple[Grader, ...] = ("ns-compat", "official", "strict-subprocess")
SUM = "3\n1 2 3\n"
VECTORS = [
    json.loads(line)
    for line in (TESTS / "data" / "vectors" / "lcb_grader.jsonl").read_text().splitlines()
]


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    """One warm pool, as a grading stage has it."""
    with SandboxPool(find_sandbox(os.environ), workers=2, preload=PRELOAD) as running:
        yield running


def judge(
    pool: SandboxPool,
    code: str,
    inputs: list[str],
    outputs: list[str],
    *,
    by: Grader,
    function: str | None = None,
    limit_s: float = 60.0,
) -> Verdict:
    """The verdict of one grader."""

    async def run(program: Program) -> ProgramResult:
        return await asyncio.to_thread(pool.run_one, program)

    task = Task(code, Cases(inputs, outputs), function, by, limit_s)
    return asyncio.run(grade_code(task, run))


@pytest.mark.parametrize("by", GRADERS)
@pytest.mark.parametrize("row", VECTORS, ids=[row["id"] for row in VECTORS])
def test_vector(pool: SandboxPool, row: dict[str, Any], by: Grader) -> None:
    """Passed or not, and with the original's code where it has one."""
    tests = row["input"]["input_output"]
    found = judge(
        pool,
        row["input"]["code"],
        tests["inputs"],
        tests["outputs"],
        by=by,
        function=tests["fn_name"],
        limit_s=row["input"]["timeout_s"],
    )
    assert (found.code is ResultCode.PASSED) is row["expected"][by], found
    code = row["expected_error_code"].get(by)
    assert code is None or found.code == code, found


FUNCTION = "class Solution:\n    def f(self, a):\n        "
QUIRKS: list[tuple[str, str, str | None, list[str], list[str], int, int]] = [
    # What it is, program, function, inputs, outputs, codes of ns-compat and strict-subprocess.
    ("future", "from __future__ import annotations\nprint(6)", None, [SUM], ["6"], -4, 1),
    ("only imports", "import os", None, [SUM], [""], -4, 1),
    ("return", "print(6)\nreturn", None, [SUM], ["6"], 1, -4),
    ("nonlocal", "x=0\ndef f():\n  nonlocal x\n  x=6\nf()\nprint(x)", None, [SUM], ["6"], 1, -4),
    ("quit", "print(6)\nquit()", None, [SUM], ["6"], -4, 1),
    ("resource", "import resource\nprint(6)", None, [SUM], ["6"], -4, 1),
    ("os._exit", "import os\nprint(6, flush=True)\nos._exit(0)", None, [SUM], ["6"], -4, 1),
    ("exit code", "import sys\nprint(6)\nsys.exit('bad')", None, [SUM], ["6"], 1, 1),
    ("late error", "print(6)\n1/0", None, [SUM], ["6"], -4, -4),
    ("prompt", "input('p')\nprint(6)", None, [SUM], ["6"], -2, -2),
    ("close", "import sys\nprint(6)\nsys.stdout.close()", None, [SUM], ["6"], -4, -4),
    ("close stdin", "import sys\nsys.stdin.close()\nprint(6)", None, [SUM] * 2, ["6"] * 2, 1, 1),
    ("digits", "print(10**5000)", None, [SUM], ["1" + "0" * 5000], 1, -4),
    ("star in try", "try:\n  from math import *\nexcept: 1\nprint(6)", None, [SUM], ["6"], -4, 1),
    ("guard else", "if __name__=='__main__':\n  print(6)\nelse:\n  1/0", None, [SUM], ["6"], 1, 1),
    ("guard turned", "if '__main__'==__name__:\n  print(6)", None, [SUM], ["6"], -2, 1),
    ("generator", "yield 1", None, [SUM], ["6"], -2, -4),
    ("nul", "print(6)\0", None, [SUM], ["6"], -4, -4),
    ("surrogate", "print(6) # \ud800", None, [SUM], ["6"], -4, -4),
    ("print surrogate", "print('\\ud800')", None, [SUM], ["6"], -2, -4),
    (
        "modules live on",
        "import math\nprint(getattr(math, 'zz', 6))\nmath.zz = 7",
        None,
        [SUM] * 2,
        ["6", "7"],
        1,
        -2,
    ),
    (
        "string annotation",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n  x: 'int'\nprint(P(6).x)",
        None,
        [SUM],
        ["6"],
        -4,
        1,
    ),
    (
        "deep recursion",
        "def g(n): return 0 if n == 0 else 1 + g(n - 1)\nprint(g(20000))",
        None,
        [SUM],
        ["20000"],
        1,
        1,
    ),
    (
        "threads",
        "import sys, threading\nthreading.stack_size(2**26)\n"
        "t = threading.Thread(target=lambda: print(input()))\nt.start()",
        None,
        ["6\n"],
        ["6"],
        1,
        1,
    ),
    (
        "one object",
        "class Solution:\n  n = 0\n  def f(self, a):\n    self.n += 1\n    return self.n",
        "f",
        ["6", "6"],
        ["1", "2"],
        1,
        -2,
    ),
    ("blank line", FUNCTION + "return 3", "f", ["1\n\n2"], ["3"], -4, -4),
    ("main guard", FUNCTION + "return a\nif __name__ == '__main__': 1/0", "f", ["6"], ["6"], 1, 1),
    ("exit in function", FUNCTION + "raise SystemExit", "f", ["6"], ["6"], -4, -4),
    ("module error", "1/0\n" + FUNCTION + "return a", "f", ["6"], ["6"], -4, -4),
    ("comment", "# class Solution\ndef f(a): return a", "f", ["6"], ["6"], -4, -4),
    ("typing", "def f(a: Optional[List[int]]) -> Dict: return a", "f", ["6"], ["6"], 1, 1),
    ("none", FUNCTION + "pass", "f", ["6"], ["null"], 1, 1),
    ("numpy", FUNCTION + "import numpy\n        return numpy.int64(a)", "f", ["6"], ["6"], 1, 1),
    (
        "array",
        FUNCTION + "import numpy\n        return numpy.ones(2)",
        "f",
        ["6"],
        ["[1,1]"],
        -4,
        -4,
    ),
    ("stdin", FUNCTION + "return input()", "f", ["6"], ["6"], -4, -4),
    ("changed", FUNCTION + "a.append(1)\n        return a", "f", ["[6]"], ["[6, 1]"], 1, 1),
]


@pytest.mark.parametrize(("compat", "strict"), [(True, False), (False, True)])
@pytest.mark.parametrize("quirk", QUIRKS, ids=[quirk[0] for quirk in QUIRKS])
def test_quirk(pool: SandboxPool, quirk: Any, compat: bool, strict: bool) -> None:
    """The codes of nvidia-livecodebench 25.11 (which prints 50,000 digits), and of a real process."""
    _, code, function, inputs, outputs, *codes = quirk
    by: Grader = "ns-compat" if compat else "strict-subprocess"
    found = judge(pool, code, inputs, outputs, by=by, function=function)
    assert found.code == codes[strict], found


SECRET = "zqx7 the expected output"
HUNT = f"""
def hunt():
    import hashlib, os, sys
    from pathlib import Path
    # By its checksum: a text to look for would be found in the memory of whoever looks for it.
    def holds(data):
        at = data.find(b"zqx7")
        while at >= 0:
            if hashlib.sha256(data[at:at + {len(SECRET)}]).hexdigest() == "{hashlib.sha256(SECRET.encode()).hexdigest()}":
                return True
            at = data.find(b"zqx7", at + 1)
        return False
    for folder, folders, files in os.walk("/tmp"):
        # Where this Python is below /tmp, it is gigabytes that nobody here may write to.
        folders[:] = [name for name in folders if not sys.prefix.startswith(os.path.join(folder, name))]
        for path in map(Path(folder).joinpath, files):
            if path.is_file() and holds(path.read_bytes()):
                return True
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            start, stop = (int(number, 16) for number in span.split("-"))
            # The code of libraries is in no page that anybody could have written to.
            if "r" in rights and ("w" in rights or ".so" not in line) and "[v" not in line:
                memory.seek(start)
                try:
                    if holds(memory.read(stop - start)):
                        return True
                except OSError:
                    continue
    return False
print(input() != "y" and hunt())
"""


@pytest.mark.parametrize(
    "by", ["ns-compat", pytest.param("official", marks=pytest.mark.long), "strict-subprocess"]
)
def test_expected_outputs_are_nowhere(pool: SandboxPool, by: Grader) -> None:
    """Files and memory of the process hold no expected output; an input is found by the same hunt.

    The output that is hunted for is the second test's, which does not hunt again.
    """
    here = judge(pool, HUNT, [SECRET], ["True"], by=by)
    assert here.code is ResultCode.PASSED, here
    away = judge(pool, HUNT, ["x", "y"], ["False", SECRET], by=by)
    assert (away.n_passed, away.code) == (1, ResultCode.WRONG_ANSWER), away


@pytest.mark.parametrize("by", GRADERS)
def test_supervisor_is_closed(pool: SandboxPool, by: Grader) -> None:
    """Its memory and its files are not the program's to open."""
    program = (
        "import os\nanswers = []\n"
        "for name in ('mem', 'fd/1', 'environ', 'maps'):\n"
        "    try:\n        open(f'/proc/{os.getppid()}/{name}', 'rb').close()\n"
        "    except PermissionError:\n        answers.append(name)\n"
        "print(len(answers))"
    )
    assert judge(pool, program, ["x"], ["4"], by=by).code is ResultCode.PASSED


@pytest.mark.parametrize("by", GRADERS)
def test_who_kills_the_supervisor_fails(pool: SandboxPool, by: Grader) -> None:
    """It is the program's end and not an error of ours."""
    program = (
        "import os, signal, time\nprint(6, flush=True)\n"
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), signal.SIGKILL)\ntime.sleep(9)"
    )
    found = judge(pool, program, [SUM], ["6"], by=by)
    assert found.code is ResultCode.ERROR
    assert "supervisor" in found.detail


@pytest.mark.parametrize("by", GRADERS)
def test_who_stops_the_supervisor_gains_no_time(pool: SandboxPool, by: Grader) -> None:
    """An answer that comes after the limit is late, though nobody was awake to end it."""
    program = (
        "import os, signal, time\n"
        "supervisor = os.pidfd_open(os.getppid())\n"
        "signal.pidfd_send_signal(supervisor, signal.SIGSTOP)\n"
        "time.sleep(1.5)\n"
        "print(6, flush=True)\n"
        "signal.pidfd_send_signal(supervisor, signal.SIGCONT)\n"
    )
    found = judge(pool, program, [SUM], ["6"], by=by, limit_s=1.0)
    # The supervisor may have been stopped before it knew that the program has compiled.
    assert found.code in (ResultCode.TIME_LIMIT, ResultCode.ERROR)


@pytest.mark.parametrize("by", GRADERS)
def test_a_way_back_that_is_forged_is_compared_all_the_same(pool: SandboxPool, by: Grader) -> None:
    """Who writes frames to every descriptor gives an answer, and a wrong one is wrong."""
    program = FUNCTION + (
        "import os\n"
        "        text = b'7'\n"
        "        for number in range(3, 64):\n"
        "            try: os.write(number, b'r' + len(text).to_bytes(8, 'big') + text)\n"
        "            except OSError: pass\n"
        "        os._exit(0)"
    )
    assert judge(pool, program, ["1"], ["6"], by=by, function="f").code is ResultCode.WRONG_ANSWER
    nonsense = program.replace("b'7'", "b'\\xff{'")
    assert judge(pool, nonsense, ["1"], ["6"], by=by, function="f").code is ResultCode.ERROR


@pytest.mark.parametrize("by", GRADERS)
def test_time_limit_is_per_test_and_says_who_waited(pool: SandboxPool, by: Grader) -> None:
    """A loop has used its time, a sleeper has not; both are told apart from a wrong answer."""
    loop = "if input() == 'b':\n    while True: pass\nprint(6)"
    found = judge(pool, loop, ["a", "b", "a"], ["6"] * 3, by=by, limit_s=1.0)
    assert (found.code, found.n_passed) == (ResultCode.TIME_LIMIT, 1)
    sleeper = judge(pool, "import time\ntime.sleep(60)", ["a"], ["6"], by=by, limit_s=1.0)
    assert (sleeper.code, sleeper.starved) == (ResultCode.TIME_LIMIT, True)
    assert 1.0 <= sleeper.wall_s < 60


def test_module_level_loop_of_a_function_is_an_error(pool: SandboxPool) -> None:
    """As in the original, which compiles under the same limit."""
    program = "while True: pass\n" + FUNCTION + "return a"
    found = judge(pool, program, ["6"], ["6"], by="ns-compat", function="f", limit_s=0.5)
    assert found.code is ResultCode.ERROR


def test_a_flood_is_cut_off(pool: SandboxPool) -> None:
    """More than anybody expects is a wrong answer, and nobody keeps it."""
    program = "while True: print('x' * 10**6)"
    found = judge(pool, program, [SUM], ["6"], by="strict-subprocess")
    assert found.code is ResultCode.WRONG_ANSWER, found
    assert found.cpu_s < 20


@pytest.mark.parametrize("by", ["ns-compat", "official"])
def test_a_captured_flood_is_not_taken_out(pool: SandboxPool, by: Grader) -> None:
    """Where output is kept in the program's own memory, too much of it comes no further."""
    program = "print('x' * 3 * 10**6)"
    found = judge(pool, program, [SUM], ["6"], by=by)
    assert (found.code, found.detail) == (ResultCode.WRONG_ANSWER, "it writes more than it may")


@pytest.mark.parametrize("by", GRADERS)
def test_processes_of_one_test_do_not_see_the_next(pool: SandboxPool, by: Grader) -> None:
    """A descendant in a session of its own is ended with the test that started it."""
    program = (
        "import os, pathlib\n"
        "def live():\n"
        "    lines = pathlib.Path('/proc').glob('[0-9]*/cmdline')\n"
        "    return sum(line.read_bytes().startswith(b'sleep') for line in lines)\n"
        "before = live()\nprint(before)\n"
        "os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'setsid sleep 99 & setsid sleep 99 &'], {}), 0)\n"
        "while live() < before + 2: pass\n"  # both are what they are to be
    )
    outputs = ["0", "0"] if by == "strict-subprocess" else ["0", "2"]
    assert judge(pool, program, [SUM] * 2, outputs, by=by).code is ResultCode.PASSED


@pytest.mark.parametrize("by", GRADERS)
def test_processes_that_cannot_be_ended_are_the_programs_own(
    pool: SandboxPool, monkeypatch: pytest.MonkeyPatch, by: Grader
) -> None:
    """Never a failure of the grader: where each test has a process of its own, they fail the test that
    left them; where one process has all tests, as in the originals, nobody looks at them."""
    files = {name: content for name, content in rounds._inside().items() if ".pyc" not in name}
    [child] = [name for name in files if name.endswith("child.py")]
    files[child] = files[child].replace(b"_CLEAN_S = 10.0", b"_CLEAN_S = -1.0")
    monkeypatch.setattr(rounds, "_inside", lambda: files)
    program = (
        "import os\nprint(6)\n"
        "os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'setsid sleep 99 &'], {}), 0)\n"
    )
    found = judge(pool, program, [SUM] * 2, ["6"] * 2, by=by)
    if by == "strict-subprocess":
        assert (found.code, found.n_passed) == (ResultCode.ERROR, 0)
        assert found.detail.endswith("processes that it started cannot be ended")
    else:
        assert (found.code, found.n_passed) == (ResultCode.PASSED, 2)


@pytest.mark.parametrize("by", GRADERS)
def test_rounds(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch, by: Grader) -> None:
    """What takes long is compared in between, and goes on where it was; a failure ends it there."""
    sent: list[Program] = []

    async def run(program: Program) -> ProgramResult:
        sent.append(program)
        return await asyncio.to_thread(pool.run_one, program)

    for name in ("PAUSE_S", "TOGETHER_PAUSE_S"):
        monkeypatch.setattr(rounds, name, 1e-9)
    inputs = ["1", "2", "3", "4"]
    task = Task("print(input())", Cases(inputs, inputs), None, by, 20.0)
    found = asyncio.run(grade_code(task, run))
    assert (found.code, found.n_passed, len(sent)) == (ResultCode.PASSED, 4, 4)
    sent.clear()
    wrong = Task("print(input())", Cases(inputs, ["1", "2", "9", "4"]), None, by, 20.0)
    found = asyncio.run(grade_code(wrong, run))
    assert (found.code, found.n_passed, len(sent)) == (ResultCode.WRONG_ANSWER, 2, 3)


def test_large_inputs_are_parted(pool: SandboxPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round holds what the sandbox can take."""
    monkeypatch.setattr(rounds, "_ROUND_BYTES", 10)
    inputs = ["12345678901234567890", "1", "2"]
    assert judge(pool, "print(input())", inputs, inputs, by="ns-compat").n_passed == 3


def test_no_program_needs_no_sandbox() -> None:
    """An answer without a program is an error of the model's."""

    async def never(program: Program) -> ProgramResult:
        raise AssertionError(program)

    task = Task(" \n", Cases(["1"], ["1"]), None, "official", 6.0)
    assert asyncio.run(grade_code(task, never)).code is ResultCode.ERROR


@pytest.mark.parametrize(
    ("ended", "signal", "stdout", "code"),
    [
        (Ending.WALL_TIMEOUT, None, b"", ResultCode.GLOBAL_TIMEOUT),
        (Ending.MEMORY, None, b"", ResultCode.ERROR),
        (Ending.OUTPUT_LIMIT, None, b"", ResultCode.WRONG_ANSWER),
        (Ending.FAILED, 9, b"", ResultCode.ERROR),
        (Ending.FAILED, None, b"", None),
        (Ending.OK, None, b"", None),
        (Ending.OK, None, b"nonsense\n", None),
        (Ending.OK, None, b'{"end": "paused"}\n', None),
    ],
)
def test_ends_without_a_last_word(
    ended: Ending, signal: int | None, stdout: bytes, code: ResultCode | None
) -> None:
    """What the program brought about is its end; what it cannot have is a ScorerError."""

    async def run(program: Program) -> ProgramResult:
        return ProgramResult(ended, None, signal, stdout, b"Traceback\nOh\n", 0, 0, 1.0, 0.5)

    task = Task("print(1)", Cases(["1"], ["1"]), None, "ns-compat", 6.0)
    if code is None:
        with pytest.raises(ScorerError, match="supervisor"):
            asyncio.run(grade_code(task, run))
    else:
        assert asyncio.run(grade_code(task, run)).code is code
