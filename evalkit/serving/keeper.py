"""The process between evalkit and a server, so that no server outlives the evalkit that started it.

A server is a tree of processes (vLLM starts engine cores and workers) that may leave its process
group, and evalkit itself may be killed without a chance to clean up: by SIGKILL, by the kernel when
memory runs out. Under Slurm the cgroup takes the rest down; on a workstation nothing does. So
evalkit starts this file as a program, the leader of a session, and this program starts the server:

- SIGUSR2, which Slurm may send to every process of a step, is ignored here and, since an ignored
  signal stays ignored through exec, in the server. evalkit blocks the signal around the start, so
  there is no moment in which it could kill. No `preexec_fn` is needed: it is not safe in a process
  that has threads.
- When evalkit is gone (our parent is another process) or asks for it (SIGTERM), the whole tree gets
  SIGTERM, and SIGKILL after a grace period. `PR_SET_PDEATHSIG` alone would not do: it reaches one
  process, fires when a mere thread of the parent ends, and asks only once.
- As a subreaper it inherits orphans of the server, so they stay findable as descendants; the other marks
  are in `evalkit.serving.tree`. A keeper that is killed itself leaves the tree to evalkit, or, when that
  was killed with it, to the next attempt on the node: see `evalkit.serving.leftovers`.
- A folder of compile caches that evalkit would have removed goes when evalkit is gone.

On another node, where srun starts it, no parent tells that evalkit is gone: standard input does, which
srun keeps open as long as evalkit does. Slurm sends its own SIGTERM to such a keeper while the worker on
the first node still lets calls end, so there only standard input is listened to.

It exits with the server's exit code (128 + n after signal n). Standard library only, run with
`python -I -S keeper.py`: it must start in milliseconds and whatever the server's environment is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING or __package__:
    from evalkit.serving import leftovers, tree
else:  # the program, which has no package: its own folder comes last, so that it hides nothing
    sys.path.append(str(Path(__file__).parent))
    import leftovers
    import tree

if TYPE_CHECKING:
    from collections.abc import Sequence

POLL_S = 0.2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_STARTED = 127
# Python ignores these for itself; a program that it starts must not inherit that.
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
ORDERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STDIN = leftovers.STDIN
"""In place of a parent's process id: evalkit holds the other end of standard input."""
ENDED = "evalkit: the server ended with exit code"
"""Begins the line that tells of a server that ended by itself."""
STOP = b"stop"
"""The order on standard input: `stop SECONDS` and a line break. Without it an end of file means that
evalkit is gone."""

State: TypeAlias = Literal["held", "asked", "gone"]


def start(command: Sequence[str]) -> int:
    """Start the server in a process group of its own, without our input; returns its pid.

    It stays in our session where that is ours alone, and begins one else: a session is a mark.
    """
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    if leads_session(keeper):
        os.setpgid(0, 0)
    else:
        os.setsid()
    # Should this keeper alone be killed, a server that works ends its engine in order.
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != keeper:
        os._exit(NOT_STARTED)
    for number in PYTHON_IGNORES:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], list(command))
    except OSError as error:
        say(f"cannot start {command[0]}: {error.strerror}")
    os._exit(NOT_STARTED)


def leads_session(pid: int) -> bool:
    """Whether this process, whose pid is given, began its session: evalkit starts it so on its own node."""
    return os.getsid(0) == pid


def make_marks(server: int) -> tree.Marks:
    """What the server's processes are known by; `server` is the pid of the one we started."""
    marker = os.environ[tree.MARKER]  # noqa: TID251 - a program of its own
    own = os.getpid()
    if not leads_session(own):
        return tree.Marks(marker, None, tree.read_process(server))
    log = next((Path(path) for path in tree.find_outputs(own)), None)
    return tree.Marks(marker, log, tree.read_process(own))


def say(text: str) -> None:
    """A line in the server's log."""
    os.write(2, f"{text}\n".encode())


def reap(pid: int) -> int | None:
    """Collect ended children, adopted ones too; exit code of `pid` if it is among them, as of a shell."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == pid:
                code = os.waitstatus_to_exitcode(ended[1])
    return code if code is None or code >= 0 else 128 - code


def prctl(option: int, value: int) -> None:
    """Ask the kernel. Where the C library cannot, there are other means to the same end."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


class ParentLine:
    """evalkit is our parent, on this node."""

    def __init__(self, parent: int, grace_s: float) -> None:
        self.grace_s = grace_s
        self._parent = parent
        self._asked: list[int] = []
        for number in ORDERS:
            signal.signal(number, lambda number, _frame: self._asked.append(number))

    def wait(self) -> State:
        """What evalkit wants; returns after a moment at the latest."""
        if not self._asked and not self.is_gone():
            time.sleep(POLL_S)
        if self.is_gone():
            return "gone"
        return "asked" if self._asked else "held"

    def is_gone(self) -> bool:
        """Whether nobody of evalkit is left on this node, to remove its caches."""
        return os.getppid() != self._parent

    def is_lost(self) -> bool:
        """A cancelled job's worker is killed after Slurm's KillWait, which is shorter than most grace
        periods; the server is to be gone with it, also where no cgroup takes it down."""
        return self.is_gone()


class StdinLine:
    """evalkit is on another node, at the other end of standard input."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._text = b""
        for number in ORDERS:
            # A handler, for an ignored signal would stay ignored in the server.
            signal.signal(number, lambda _number, _frame: None)

    def wait(self) -> State:
        """What evalkit wants; returns after a moment at the latest."""
        if not select.select([0], [], [], POLL_S)[0]:
            return "held"
        data = os.read(0, 4096)
        self._text += data
        words = self._text.partition(b"\n")[0].split()
        if b"\n" in self._text and words[0] == STOP:
            self.grace_s = float(words[1])
            return "asked"
        return "held" if data else "gone"

    def is_gone(self) -> bool:
        """It never was on this node."""
        return True

    def is_lost(self) -> bool:
        """It has hung up with the order to stop: nothing more can be heard."""
        return False


def keep(line: ParentLine | StdinLine, cache_dir: str, command: Sequence[str]) -> int:
    """Run the server until it ends, evalkit is gone or asks for it. Returns the exit code.

    `cache_dir` is removed when evalkit is gone: as long as it lives, its next server may use it.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphaned descendants become ours
    pid = start(command)
    marks = make_marks(pid)
    code: int | None = None
    state: State = "held"
    while code is None and state == "held":
        state = line.wait()
        code = reap(pid)
    grace_s = line.grace_s
    if code is not None:
        say(f"{ENDED} {code} at {time.time():.3f}")  # noqa: TID251 - nodes share no other clock
    if code is not None or state == "gone":
        grace_s = min(grace_s, tree.SHORT_GRACE_S)
    tree.end_tree({os.getpid()}, marks, grace_s, line.is_lost)
    if line.is_gone():
        shutil.rmtree(cache_dir, ignore_errors=True)
    if code is None:
        code = reap(pid)
    return 128 + signal.SIGKILL if code is None else code


def main(argv: Sequence[str]) -> int:
    """`keeper.py PARENT_PID|stdin GRACE_SECONDS CACHE_DIR COMMAND...`"""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    grace_s, cache_dir = float(argv[1]), argv[2]
    if argv[0] != STDIN:
        return keep(ParentLine(int(argv[0]), grace_s), cache_dir, argv[3:])
    line = StdinLine(grace_s)
    try:
        Path(cache_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        say(f"cannot make the folder {cache_dir} for compile caches: {error.strerror}")
        return NOT_STARTED
    for text in leftovers.end_leftovers(os.environ[tree.MARKER]):  # noqa: TID251 - as above
        say(text)
    return keep(line, cache_dir, argv[3:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
