"""Programs in a real sandbox: how they end, what they get and what comes back, in every backend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import Ending, Limits, Program, Sandbox, SandboxPool
from tests.integration.sandbox.conftest import GONE_S, kill_all

if TYPE_CHECKING:
    from evalkit.scoring.sandbox import ProgramResult

ROOT = Path(__file__).resolve().parents[3]
MIB = 2**20


def both(sandbox: Sandbox, source: str) -> list[Program]:
    """The same source in the warm interpreter and in a process of its own."""
    argv = (sandbox.view.interpreter, "main.py")
    return [Program(source=source), Program(argv=argv, files={"main.py": source.encode()})]


def summary(result: ProgramResult) -> tuple[Ending, int | None, int | None]:
    return result.ended, result.exit_code, result.signal


ENDS = {
    "print('hello')": (Ending.OK, 0, None),
    "import sys; sys.exit(7)": (Ending.FAILED, 7, None),
    "import sys; sys.exit('words')": (Ending.FAILED, 1, None),
    "raise ValueError": (Ending.FAILED, 1, None),
    "def broken(:": (Ending.FAILED, 1, None),
    "import os; os._exit(3)": (Ending.FAILED, 3, None),
    "import os; os.kill(os.getpid(), 9)": (Ending.FAILED, None, 9),
    "import os; os.kill(os.getpid(), 15)": (Ending.FAILED, None, 15),
    "import os; os.abort()": (Ending.FAILED, None, int(signal.SIGABRT)),
    "import ctypes; ctypes.string_at(0)": (Ending.FAILED, None, int(signal.SIGSEGV)),
}


def test_ends(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Exit codes and signals are told as they are, whichever way a program is run."""
    found = {
        source: [summary(pool.run_one(program)) for program in both(sandbox, source)]
        for source in ENDS
    }
    assert found == {source: [end, end] for source, end in ENDS.items()}


def test_input_and_output(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Standard input arrives as bytes of a file, and both streams come back apart."""
    source = """\
        import os, sys
        assert os.fstat(0).st_size == 11
        assert input() == "grün"
        sys.stdout.write(sys.stdin.read())
        print("to stderr", file=sys.stderr)
        """
    for program in both(sandbox, textwrap.dedent(source)):
        began = time.monotonic()
        result = pool.run_one(replace(program, stdin="grün\n\0 end".encode()))
        assert (result.ended, result.stdout) == (Ending.OK, b"\0 end")
        assert result.stderr == b"to stderr\n"
        assert 0 < result.wall_s < time.monotonic() - began
        assert 0 < result.cpu_s < 10


def test_source_is_a_main_program(pool: SandboxPool) -> None:
    """The warm interpreter shows a program what a fresh one would."""
    source = """\
        import atexit, sys, threading
        class Unusual: pass
        assert __name__ == Unusual.__module__ == "__main__"
        assert sys.modules["__main__"].Unusual is Unusual
        import helper
        assert helper.value == 5 and sys.argv == ["main.py"]
        assert not any(name.startswith("inside") for name in sys.path)
        atexit.register(print, "third")
        threading.Thread(target=lambda: print("second")).start()
        print("first")
        """
    result = pool.run_one(
        Program(source=textwrap.dedent(source), files={"helper.py": b"value = 5"})
    )
    assert (result.stderr, result.ended) == (b"", Ending.OK)
    assert sorted(result.stdout.split()) == [b"first", b"second", b"third"]


def test_traceback_is_the_program_s_own(pool: SandboxPool) -> None:
    """An error is shown from the program's first line on, with its text."""
    result = pool.run_one(Program(source="def f():\n    return 1 / 0\nf()\n"))
    shown = result.stderr.decode()
    assert "ZeroDivisionError: division by zero" in shown
    assert '  File "main.py", line 3, in <module>' in shown
    assert "inside" not in shown


def test_files_and_folders(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Files are placed with their folders; the working folder is home and holds nothing else."""
    program = Program(
        argv=("/bin/sh", "-c", 'find . -type f | sort; cat a/b/data; echo "$HOME $PWD"'),
        files={"a/b/data": b"some data\n", "x.py": b""},
    )
    result = pool.run_one(program)
    assert result.stdout == b"./a/b/data\n./x.py\nsome data\n/tmp/box /tmp/box\n"


def test_wall_timeout(pool: SandboxPool, sandbox: Sandbox) -> None:
    """A program that sleeps is ended at its limit, with what it wrote until then."""
    source = "import time; print('before', flush=True); time.sleep(600)"
    program = Program(source=source, wall_s=1.5)
    result = pool.run_one(program)
    assert summary(result) == (Ending.WALL_TIMEOUT, None, None)
    assert result.stdout == b"before\n"
    assert result.wall_s >= 1.5


def test_cpu_timeout(pool: SandboxPool, sandbox: Sandbox) -> None:
    """A program that computes for too long is ended by its CPU time, which is told apart."""
    for program in both(sandbox, "while True: pass"):
        result = pool.run_one(replace(program, wall_s=50, cpu_s=1))
        assert (result.ended, result.exit_code) == (Ending.CPU_TIMEOUT, None)
        assert 0.4 < result.cpu_s < 10


def test_cpu_time_of_children_counts(pool: SandboxPool) -> None:
    """Time of processes that nobody waited for is in the CPU time, too."""
    source = """\
        import os, time
        if os.fork() == 0:
            while time.process_time() < 0.4: pass
            os._exit(0)
        time.sleep(0.1)
        while os.path.exists("/proc/3") and open("/proc/3/stat").read().split()[2] != "Z":
            time.sleep(0.01)
        """
    assert pool.run_one(Program(source=textwrap.dedent(source))).cpu_s > 0.35


def test_memory_of_one_process(pool: SandboxPool) -> None:
    """An allocation above the limit fails in the program."""
    result = pool.run_one(Program(source="x = bytearray(100 * 10**9)"))
    assert (result.ended, result.exit_code) == (Ending.FAILED, 1)
    assert b"MemoryError" in result.stderr


def test_memory_of_all_processes(pool: SandboxPool) -> None:
    """Processes that stay below the limit each and exceed it together are ended, and it is said why."""
    source = """\
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                x = bytearray(b"x" * (60 * 2**20))
                time.sleep(600)
        time.sleep(600)
        """
    limits = Limits(memory_bytes=256 * MIB)
    result = pool.run_one(Program(source=textwrap.dedent(source), wall_s=50, limits=limits))
    assert result.ended is Ending.MEMORY


def test_output_limit(pool: SandboxPool, sandbox: Sandbox) -> None:
    """A gigabyte of output is neither waited for nor kept, and what was read above the limit is counted."""
    source = "import sys\nfor _ in range(1024): sys.stdout.write('x' * 2**20)"
    for program in both(sandbox, source):
        result = pool.run_one(replace(program, limits=Limits(output_bytes=5000)))
        assert result.ended is Ending.OUTPUT_LIMIT
        assert result.stdout == b"x" * 5000
        assert 0 < result.stdout_cut < 2**20
        assert result.stderr_cut == 0


def test_output_at_the_limit_is_kept(pool: SandboxPool) -> None:
    """Exactly as much as is allowed is no more than that."""
    limits = Limits(output_bytes=5000)
    result = pool.run_one(Program(source="print('x' * 4999)", limits=limits))
    assert (result.ended, len(result.stdout), result.stdout_cut) == (Ending.OK, 5000, 0)


def test_recursion(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Fifty thousand calls deep is possible, as the preamble of code benchmarks asks for."""
    source = "import sys\nsys.setrecursionlimit(50000)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(49000))"
    assert [pool.run_one(p).stdout for p in both(sandbox, source)] == [b"49000\n"] * 2


def test_processes_and_threads_work(pool: SandboxPool) -> None:
    """multiprocessing, with its semaphores in shared memory, works within the limits."""
    source = """\
        import multiprocessing
        def square(n): return n * n
        if __name__ == "__main__":
            multiprocessing.set_start_method("fork")
            with multiprocessing.Pool(3) as workers:
                print(workers.map(square, range(5)))
        """
    result = pool.run_one(Program(source=textwrap.dedent(source)))
    assert (result.stdout, result.stderr) == (b"[0, 1, 4, 9, 16]\n", b"")


def test_environment_is_fixed(pool: SandboxPool, sandbox: Sandbox) -> None:
    """A program finds these variables and no other."""
    names = "HOME LANG LC_ALL MPLBACKEND OMP_NUM_THREADS PATH PYTHONHASHSEED TMPDIR USER"
    for program in both(sandbox, "import os; print(*sorted(os.environ))"):
        assert pool.run_one(program).stdout.decode().split() == names.split()


def test_same_program_same_output(pool: SandboxPool, sandbox: Sandbox) -> None:
    """The order of a set of words does not change from one scoring to the next."""
    programs = both(sandbox, "print({'one', 'two', 'three', 'four', 'five'})") * 2
    assert len({pool.run_one(program).stdout for program in programs}) == 1


def test_seeds_differ(pool: SandboxPool) -> None:
    """A fork does not repeat random numbers."""
    program = Program(source="import random; print(random.random())")
    assert len({pool.run_one(program).stdout for _ in range(3)}) == 3


def test_results_keep_the_order(pool: SandboxPool) -> None:
    """Many programs at once come back in order."""
    results = pool.run(Program(source=f"print({n} ** 2)") for n in range(20))
    assert [r.stdout for r in results if not isinstance(r, ScorerError)] == [
        b"%d\n" % n**2 for n in range(20)
    ]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (Program(argv=("/no/such/program",)), "No such file"),
        (
            Program(source="", files={"big": b"x" * (2 * MIB)}, limits=Limits(scratch_bytes=MIB)),
            "No space",
        ),
    ],
)
def test_our_own_failures_are_no_results(pool: SandboxPool, program: Program, words: str) -> None:
    """What a program cannot be blamed for is a ScorerError, and stands in its place in a list."""
    with pytest.raises(ScorerError, match=words):
        pool.run_one(program)
    failed, fine = pool.run([program, Program(source="print(1)")])
    assert isinstance(failed, ScorerError)
    assert not isinstance(fine, ScorerError)


def test_sandbox_that_was_killed_is_replaced(sandbox: Sandbox) -> None:
    """Programs in it fail as scorer errors; the next one finds a new sandbox."""
    before = set(psutil.Process().children(recursive=True))
    with SandboxPool(sandbox) as pool:
        first = pool.run_one(Program(source="print(1)"))
        kill_all(set(psutil.Process().children(recursive=True)) - before)
        with suppress(ScorerError):  # it may have been asked before it was dead
            pool.run_one(Program(source="print(1)"))
        assert pool.run_one(Program(source="print(1)")).stdout == first.stdout


HOST = """\
import sys
from pathlib import Path
from evalkit.scoring.sandbox import Program, SandboxPool
from tests.integration.sandbox.sandboxes import make_sandbox
with SandboxPool(make_sandbox(sys.argv[1], Path(sys.argv[2]))) as pool:
    print("ready", flush=True)
    pool.run_one(Program(source="import time; time.sleep(600)", wall_s=600))
"""


def running_programs(host: psutil.Process) -> list[psutil.Process]:
    """All processes below a host, once one of them has been given a program's priority to be killed."""
    deadline = time.monotonic() + GONE_S
    while time.monotonic() < deadline:
        inside = host.children(recursive=True)
        with suppress(OSError):
            scores = [Path(f"/proc/{child.pid}/oom_score_adj").read_text() for child in inside]
            if "1000\n" in scores:
                return inside
        threading.Event().wait(0.02)
    raise AssertionError("no program was started")


@pytest.mark.parametrize("choice", ["bwrap-nested", "bwrap-single", "namespaces-nested"])
def test_nothing_outlives_a_killed_host(choice: str, tmp_path: Path) -> None:
    """SIGKILL to evalkit ends the sandbox and the programs in it."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, choice, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"ready\n"
    me = psutil.Process(host.pid)
    inside = running_programs(me)
    host.kill()
    host.wait()
    host.stdout.close()
    assert psutil.wait_procs(inside, timeout=GONE_S)[1] == []


def test_preloaded_modules(sandbox: Sandbox) -> None:
    """Modules that a pool names are there before a program imports them."""
    with SandboxPool(sandbox, preload=["decimal", "fractions"]) as pool:
        source = "import sys; print({'decimal', 'fractions'} <= set(sys.modules))"
        assert pool.run_one(Program(source=source)).stdout == b"True\n"


def test_module_that_is_not_there(sandbox: Sandbox) -> None:
    """A pool that cannot preload says which module is missing."""
    with (
        pytest.raises(ScorerError, match="No module named 'no_such_module'"),
        SandboxPool(sandbox, preload=["no_such_module"]) as pool,
    ):
        pool.run_one(Program(source=""))
