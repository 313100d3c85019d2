"""Python sessions in a real sandbox: state, display, time limits, loss and restoration."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psutil
import pytest

from evalkit.errors import ScorerError
from evalkit.scoring.sandbox import CellEnding, Limits, PythonSession, session_zygote
from tests.integration.sandbox.conftest import SECRET, expect_gone, kill_all
from tests.integration.sandbox.sandboxes import make_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evalkit.scoring.sandbox.zygote import Zygote

CHOICES = ["bwrap-nested", "namespaces-nested", "namespaces-single"]
PATIENCE_S = 100
NEVER = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"


@pytest.fixture(scope="module", params=CHOICES)
def zygote(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Zygote]:
    """A warm interpreter with IPython."""
    with session_zygote(make_sandbox(request.param, tmp_path_factory.mktemp("view"))) as running:
        yield running


@pytest.fixture
def session(zygote: Zygote) -> Iterator[PythonSession]:
    """A new session; afterwards no process of it is left."""
    before = set(psutil.Process().children(recursive=True))
    with PythonSession(zygote) as running:
        yield running
    expect_gone(before)


def texts(session: PythonSession, *cells: str) -> list[str]:
    return [session.execute(cell, PATIENCE_S).text for cell in cells]


def test_state_and_display(session: PythonSession) -> None:
    """Names stay, the last expression is shown as IPython shows it, and no output is an empty text."""
    cells = ["x = 41", "x + 1", "print('a'); x", "'text'", "None", "x;", "%timeit -n1 -r1 pass"]
    found = texts(session, *cells)
    # IPython heeds the semicolon only in cells that it keeps as history; the harness keeps none.
    assert found[:6] == ["", "42", "a\n41", "'text'", "", "41"]
    assert "1 loop each" in found[6]


def test_errors(session: PythonSession) -> None:
    """A traceback is plain, on stdout, without colours and without IPython's own lines."""
    result = session.execute("def f():\n    return 1 / 0\nf()", PATIENCE_S)
    assert result.ended is CellEnding.ERROR
    assert result.stderr == ""
    assert result.text == (
        "Traceback (most recent call last):\n"
        "  Cell In[1], line 3\n"
        "    f()\n"
        "  Cell In[1], line 2 in f\n"
        "    return 1 / 0\n"
        "ZeroDivisionError: division by zero"
    )
    assert "SyntaxError" in session.execute("def broken(:", PATIENCE_S).text


def test_streams(session: PythonSession) -> None:
    """stdout comes before stderr, each cut at a thousand characters after the clean-up."""
    cell = "import sys; print('e', file=sys.stderr); print('\\x1b[31mred\\x1b[0m')"
    assert session.execute(cell, PATIENCE_S).text == "red\ne"
    long = session.execute("print('x' * 10**6); print('y' * 1001, file=sys.stderr)", PATIENCE_S)
    assert long.stdout == "x" * 1000 + "<output cut>"
    assert long.stderr == "y" * 1000 + "<output cut>"
    assert session.execute("print('\\ud800')", PATIENCE_S).text == "?"
    assert 999_000 < long.cut < 999_010


@pytest.mark.parametrize(("timeout_s", "number"), [(1, "1"), (1.0, "1.0")])
def test_interrupted_cell(session: PythonSession, timeout_s: float, number: str) -> None:
    """A cell that takes too long is interrupted and says so; the session goes on as it was."""
    session.execute("x = 5", PATIENCE_S)
    result = session.execute("print('before')\nimport time; time.sleep(600)", timeout_s)
    assert result.ended is CellEnding.TIMEOUT
    assert result.stdout.startswith("before\n")
    assert result.stderr == f"Execution timed out after {number} seconds\n"
    after = session.execute("x", PATIENCE_S)
    assert (after.text, after.restored) == ("5", 0)


def test_cell_that_cannot_be_interrupted(session: PythonSession) -> None:
    """It is killed, and the next cell finds what the successful cells before it had made."""
    texts(session, "x = [1]", "x.append(2)", "x.append(3); 1 / 0")
    result = session.execute(NEVER, 1)
    assert (result.ended, result.text) == (
        CellEnding.TIMEOUT,
        "Execution timed out after 1 seconds",
    )
    after = session.execute("x", PATIENCE_S)
    assert (after.text, after.restored) == ("[1, 2]", 2)


@pytest.mark.parametrize(
    "cell",
    [
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "import ctypes; ctypes.string_at(0)",
        "import os, json, struct\n"
        "body = json.dumps(dict(number=2, ok=True, stdout=[], stderr='', stdout_cut=0, stderr_cut=0)).encode()\n"
        "for n in range(3, 99):\n"
        "  try: os.write(n, struct.pack('>I', len(body)) + body)\n"
        "  except OSError: pass",
        "import os\nfor n in range(3, 99):\n  try: os.write(n, b'\\0\\0\\0\\2{}')\n  except OSError: pass",
    ],
)
def test_cell_that_ends_its_process(session: PythonSession, cell: str) -> None:
    """A dead or lying process is the model's own fault and an answer to it; its state is restored."""
    session.execute("x = 5", PATIENCE_S)
    result = session.execute(cell, PATIENCE_S)
    assert (result.ended, result.text) == (CellEnding.DIED, "connection closed")
    assert session.execute("x", PATIENCE_S).text == "5"


def test_restoration_that_fails(session: PythonSession) -> None:
    """A cell that does not succeed a second time clears the history, and the model is told."""
    born = "open('/proc/self/stat').read().rpartition(')')[2].split()[19]"  # in clock ticks
    (first,) = texts(session, born)
    assert texts(session, f"x = 1\nif {born} != {first}: raise ValueError") == [""]
    session.execute(NEVER, 1)
    result = session.execute("x", PATIENCE_S)
    assert result.ended is CellEnding.ERROR
    assert result.stderr.startswith("RuntimeError: Sandbox state restoration failed")
    assert "NameError" in session.execute("x", PATIENCE_S).text


def test_late_interrupt_hits_no_later_cell(session: PythonSession) -> None:
    """Cells that end about when their time does leave the next ones alone."""
    for _ in range(5):
        session.execute("import time; time.sleep(0.1)", 0.1)
        assert session.execute("1 + 1", PATIENCE_S).text == "2"


def test_isolation(session: PythonSession) -> None:
    """No secret, no network, no terminal, no foreign file; an own, empty working folder."""
    cells = [
        "import os, socket; (os.getcwd(), os.listdir(), os.path.exists('/home'))",
        "socket.create_connection(('127.0.0.1', 22))",
        "[open(f'/proc/{p}/environ').read() for p in os.listdir('/proc') if p == str(os.getpid())]",
        "input()",
        "sorted(os.listdir('/proc/self/fd'))[:3], os.readlink('/proc/self/fd/0')",
    ]
    folder, network, environment, question, descriptors = texts(session, *cells)
    assert folder == "('/tmp/box', [], False)"
    assert "Network is unreachable" in network
    assert SECRET not in environment
    assert "EOFError" in question
    assert "/dev/null" in descriptors


def test_limits(zygote: Zygote) -> None:
    """Memory, files and processes of a session are limited."""
    limits = Limits(memory_bytes=2**31, scratch_bytes=2**20, processes=5)
    with PythonSession(zygote, limits) as session:
        assert "MemoryError" in session.execute("x = bytearray(3 * 2**30)", PATIENCE_S).text
        write = "open('f', 'wb', buffering=0).write(bytes(2**21)) < 2**21"
        assert session.execute(write, PATIENCE_S).text == "True"
        bomb = "import os, time\ntry:\n    while os.fork(): pass\n    time.sleep(600)\nexcept OSError as e: print(e)"
        assert "Resource temporarily unavailable" in session.execute(bomb, PATIENCE_S).text


def test_sessions_are_apart(zygote: Zygote) -> None:
    """Sessions of one zygote share no names, no files and no processes."""
    with PythonSession(zygote) as one, PythonSession(zygote) as other:
        texts(one, "import os; x = 1; open('f', 'w').close()")
        assert "NameError" in texts(other, "x")[0]
        cell = "import os; (os.listdir(), [p for p in os.listdir('/proc') if p.isdigit()])"
        assert texts(other, cell) == ["([], ['1', '2'])"]


async def test_concurrent_cells(session: PythonSession) -> None:
    """Calls at the same time run one after the other."""
    await asyncio.to_thread(session.execute, "seen = []", PATIENCE_S)
    cells = [f"seen.append({n}); seen[-1]" for n in range(5)]
    results = await asyncio.gather(
        *(asyncio.to_thread(session.execute, cell, PATIENCE_S) for cell in cells)
    )
    assert [result.text for result in results] == ["0", "1", "2", "3", "4"]


def test_lost_sandbox(zygote: Zygote) -> None:
    """A sandbox that is killed from outside is a scorer error, never a text for the model."""
    before = set(psutil.Process().children(recursive=True))
    with PythonSession(zygote) as session:
        session.execute("x = 5", PATIENCE_S)
        kill_all(set(psutil.Process().children(recursive=True)) - before)
        with pytest.raises(ScorerError, match="sandbox"):
            session.execute("x", PATIENCE_S)
        assert session.execute("x", PATIENCE_S).text == "5"
