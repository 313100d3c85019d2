"""The keeper as a program, with real processes and without a server."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from evalkit.serving import keeper, tree
from evalkit.serving.server import keeper_command


def keep(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end through a keeper."""
    env = {**os.environ, tree.MARKER: f"unit-{os.getpid()}"}
    whole = [*keeper_command(os.getpid(), 5.0, Path("/nonexistent")), *command]
    return subprocess.run(whole, env=env, capture_output=True, text=True, check=False)


def test_caches_outlive_a_server(tmp_path: Path) -> None:
    """While evalkit lives the caches stay when a server ends: the next one uses them."""
    env = {**os.environ, tree.MARKER: f"unit-{os.getpid()}"}
    keeping = keeper_command(os.getpid(), 5.0, tmp_path)
    subprocess.run([*keeping, "true"], env=env, capture_output=True, check=True)
    assert tmp_path.is_dir()


def test_exit_codes_pass_through() -> None:
    """The keeper ends as the server did, by a code or by a signal, and when there is no command."""
    assert keep("sh", "-c", "exit 7").returncode == 7
    assert keep("sh", "-c", "kill -9 $$").returncode == 137
    missing = keep("no-such-command")
    assert missing.returncode == 127
    first, last = missing.stderr.splitlines()
    assert first == "cannot start no-such-command: No such file or directory"
    assert last.startswith("evalkit: the server ended with exit code 127 at ")


def test_signals_of_the_server_are_the_default() -> None:
    """The server gets SIGUSR2 ignored, and nothing else ignored or blocked by us."""
    masks = masks_of(keep("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status").stdout)
    # What we inherited stays, such as SIGQUIT where a shell has us in its background, and 32 and 33,
    # which the C library keeps to itself.
    before = masks_of(Path("/proc/self/status").read_text())
    heard = {signal.SIGPIPE, signal.SIGXFSZ, *keeper.ORDERS}
    assert masks["SigBlk"] == before["SigBlk"]
    assert masks["SigIgn"] == before["SigIgn"] - heard | {signal.SIGUSR2}


def masks_of(status: str) -> dict[str, set[int]]:
    """Numbers of the signals that are blocked and ignored."""
    fields = (line.split() for line in status.splitlines() if line.startswith("Sig"))
    return {
        name[:-1]: {n for n in range(1, 65) if int(mask, 16) >> (n - 1) & 1}
        for name, mask in fields
        if name in ("SigBlk:", "SigIgn:")
    }


def test_what_a_server_leaves_behind_is_ended() -> None:
    """A child that outlives the server goes with it, though it left session and parent."""
    script = "setsid sleep 100 >/dev/null 2>&1 & echo $!; exit 0"
    done = keep("sh", "-c", script)
    assert done.returncode == 0
    assert tree.read_process(int(done.stdout)) is None
