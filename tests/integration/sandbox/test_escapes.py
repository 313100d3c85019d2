"""What a hostile program tries, in every backend. Each attempt fails, and the next program is well.

The fixture `pool` runs a program after every test and looks for processes that were left.
"""

from __future__ import annotations

import ast
import os
import socket
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from evalkit.scoring.sandbox import Ending, Limits, Program, Sandbox, SandboxPool
from tests.integration.sandbox.conftest import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
MIB = 2**20
# Runs a statement and says how it failed; what does not fail is said, too.
ATTEMPT = """\
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, action):
    try:
        value = action()
    except (OSError, ValueError) as error:
        print(repr((name, type(error).__name__)))
    else:
        print(repr((name, value)))
def call(number_or_function, *arguments):
    function = getattr(libc, number_or_function)
    return "refused" if function(*arguments) == -1 else "done"
"""


def attempts(pool: SandboxPool, source: str, **changes: Any) -> dict[str, Any]:
    """What became of each `attempt` in a program."""
    result = pool.run_one(Program(source=ATTEMPT + textwrap.dedent(source), **changes))
    assert (result.ended, result.stderr) == (Ending.OK, b"")
    return dict(ast.literal_eval(line) for line in result.stdout.decode().splitlines())


def test_secrets_of_the_environment(pool: SandboxPool) -> None:
    """Neither its own environment nor that of any process it can see holds the parent's secret."""
    source = """\
        import glob
        seen = [repr(dict(os.environ))]
        for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/task/*/environ"):
            try: seen.append(open(path, "rb").read().decode())
            except OSError: pass
        print(seen)
        """
    result = pool.run_one(Program(source=ATTEMPT + textwrap.dedent(source)))
    assert result.ended is Ending.OK
    assert b"USER" in result.stdout
    assert SECRET.encode() not in result.stdout


def test_other_processes(pool: SandboxPool) -> None:
    """It sees no process but its own and the first of its namespace, and cannot look into that one."""
    source = """\
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        attempt("others", lambda: len(set(pids) - {1, os.getpid()}))
        for name in ("environ", "mem", "maps", "fd", "root", "cwd"):
            read = os.listdir if name == "fd" else lambda path: open(path, "rb").read(1)
            attempt(name, lambda: read(f"/proc/1/{name}"))
        """
    found = attempts(pool, source)
    assert found.pop("others") == 0
    assert set(found.values()) <= {"PermissionError"}


def test_home_run_folder_and_repository(
    pool: SandboxPool, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The user's files, a run folder and the checkout are not there, but for the interpreter's folder."""
    (tmp_path / "journal").write_text("secret")
    home = Path("~").expanduser()
    source = f"""\
        for path in ({str(tmp_path)!r}, {str(tmp_path / "journal")!r}, {str(ROOT / "pyproject.toml")!r},
                     {str(ROOT / "evalkit")!r}, {str(home / ".ssh")!r}, "/etc/passwd", "/etc/shadow",
                     "/home", "/var", "/sys", "/mnt", "/etc/hostname", "/run"):
            attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read())
        attempt("folders", lambda: (sorted(os.listdir("/")), os.path.isdir({str(ROOT)!r}) and os.listdir({str(ROOT)!r})))
        attempt("user", lambda: os.path.expanduser("~"))
        """
    found = attempts(pool, source)
    root, repository = found.pop("folders")
    assert set(root) <= {
        *("bin", "dev", "etc", "evalkit", "lib", "lib32", "lib64", "libx32", "proc", "sbin"),
        *("tmp", "usr", *(Path(target).parts[1] for _, target in sandbox.view.binds)),
    }
    assert repository in (False, [".venv"])
    assert found.pop("user") == "/tmp/box"
    assert set(found.values()) == {"FileNotFoundError"}


@pytest.fixture
def listener() -> Iterator[tuple[int, str]]:
    """A TCP port and an abstract Unix socket that accept connections; none may come."""
    name = f"evalkit-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        tcp.settimeout(0)
        unix.settimeout(0)
        yield tcp.getsockname()[1], name
        for server in (tcp, unix):
            with pytest.raises(BlockingIOError):
                server.accept()


def test_network(pool: SandboxPool, listener: tuple[int, str]) -> None:
    """No address is reachable: not this machine's, not an abstract socket, not the machine's host."""
    port, name = listener
    source = f"""\
        def connect(family, address, kind=socket.SOCK_STREAM):
            with socket.socket(family, kind) as s:
                s.settimeout(5)
                s.connect(address)
        attempt("tcp", lambda: connect(socket.AF_INET, ("127.0.0.1", {port})))
        attempt("tcp6", lambda: connect(socket.AF_INET6, ("::1", {port})))
        attempt("abstract", lambda: connect(socket.AF_UNIX, "\\0{name}"))
        attempt("udp", lambda: connect(socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM))
        attempt("vsock", lambda: connect(socket.AF_VSOCK, (2, 1)))
        attempt("crypto", lambda: connect(socket.AF_ALG, ("hash", "sha256")))
        attempt("raw", lambda: connect(socket.AF_PACKET, ("lo", 0), socket.SOCK_RAW))
        """
    found = attempts(pool, source)
    assert found.pop("abstract") == "ConnectionRefusedError"
    assert {found.pop(name) for name in ("vsock", "crypto", "raw")} == {"PermissionError"}
    # bubblewrap's own loopback is up, and nobody listens there.
    assert set(found.values()) <= {"OSError", "ConnectionRefusedError"}


def test_fork_bomb(pool: SandboxPool) -> None:
    """A program that only ever forks reaches its number of processes and its time limit, no more."""
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    result = pool.run_one(Program(source=bomb, wall_s=1.5, limits=Limits(processes=32)))
    assert result.ended is Ending.WALL_TIMEOUT


def test_number_of_processes(pool: SandboxPool, sandbox: Sandbox) -> None:
    """So many processes and threads can be started as the limit says, the first one included.

    Without a user namespace of its own, those of the same user that end meanwhile make room.
    """
    source = """\
        import time
        def start():
            count = 1
            try:
                while True:
                    if os.fork() == 0: time.sleep(600)
                    count += 1
            except OSError: return count
        attempt("count", start)
        """
    most = 10 if sandbox.mode == "nested" else 30
    assert 10 <= attempts(pool, source, limits=Limits(processes=10))["count"] <= most


def test_fill_the_disk(pool: SandboxPool) -> None:
    """All that is written, wherever that is possible, stays below the limit of the scratch."""
    source = """\
        def fill():
            total = 0
            for folder in ("/tmp", "/dev/shm", "/tmp/box"):
                for n in range(100):
                    try:
                        with open(f"{folder}/{n}", "wb", buffering=0) as file:
                            while True: total += file.write(bytes(2**18))
                    except OSError: pass
            return total
        attempt("total", fill)
        """
    limits = Limits(scratch_bytes=8 * MIB, file_bytes=4 * MIB)
    assert 4 * MIB < attempts(pool, source, limits=limits)["total"] <= 8 * MIB


def test_many_empty_files(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Files without content are limited, too: their names take the node's memory."""
    if sandbox.name == "bwrap (single)":
        return  # bubblewrap cannot say how many: docs/adr/0017-sandbox.md
    source = """\
        def make():
            for n in range(10**6):
                try: open(f"/tmp/box/{n}", "w").close()
                except OSError: return n
        attempt("files", make)
        """
    assert attempts(pool, source, limits=Limits(scratch_bytes=8 * MIB))["files"] < 10**5


def test_file_size_and_open_files(pool: SandboxPool) -> None:
    """One file and the number of open ones are limited."""
    source = """\
        attempt("size", lambda: open("big", "wb", buffering=0).write(bytes(2**21)))
        kept = []
        def open_many():
            try:
                while True: kept.append(open("/dev/null"))
            except OSError: return len(kept)
        attempt("open", open_many)
        """
    found = attempts(pool, source, limits=Limits(file_bytes=MIB, open_files=20))
    assert found["size"] == MIB
    assert 10 <= found["open"] <= 17


def test_memory_outside_of_the_limits(pool: SandboxPool) -> None:
    """Memory that no limit would count cannot be had."""
    source = """\
        attempt("memfd", lambda: os.memfd_create("x"))
        attempt("shm", lambda: call("shmget", 0, ctypes.c_size_t(2**30), 0o1600))
        """
    assert attempts(pool, source) == {"memfd": "PermissionError", "shm": "refused"}


def test_signals(pool: SandboxPool) -> None:
    """It can signal nobody: its parent and the first process do not even notice."""
    source = """\
        import signal
        attempt("parent", os.getppid)
        signals = [n for n in range(1, 65) if n not in (32, 33)]
        for number in signals:
            for target in (1, os.getppid() or 1):
                try: os.kill(target, number)
                except OSError: pass
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for number in (9, 19, 15):
            try: os.kill(-1, number)
            except OSError: pass
        attempt("alive", lambda: True)
        """
    found = attempts(pool, source)
    assert found["parent"] in (0, 1)
    assert found["alive"] is True


def test_tracing(pool: SandboxPool) -> None:
    """ptrace and its relatives are refused, for its own children as well."""
    source = """\
        attempt("attach", lambda: call("ptrace", 16, 1, 0, 0))
        attempt("self", lambda: call("ptrace", 0, 0, 0, 0))
        attempt("read", lambda: call("process_vm_readv", 1, 0, 0, 0, 0, 0))
        """
    assert set(attempts(pool, source).values()) == {"refused"}


def test_new_namespaces_and_mounts(pool: SandboxPool) -> None:
    """It can neither make namespaces, in which it would have rights, nor mount, nor leave its root."""
    source = """\
        for name, flag in (("user", 0x10000000), ("mount", 0x20000), ("net", 0x40000000)):
            attempt(name, lambda: call("unshare", flag))
        libc.syscall.restype = ctypes.c_long
        clone, clone3 = (56, 435) if os.uname().machine == "x86_64" else (220, 435)
        attempt("clone", lambda: call("syscall", clone, ctypes.c_long(0x10000011), 0, 0, 0, 0))
        attempt("clone3", lambda: call("syscall", clone3, ctypes.byref((ctypes.c_uint64 * 11)(0x10000000)), 88))
        attempt("mount", lambda: call("mount", b"x", b"/tmp", b"tmpfs", 0, None))
        attempt("umount", lambda: call("umount2", b"/tmp", 2))
        attempt("umount proc", lambda: call("umount2", b"/proc", 2))
        attempt("remount", lambda: call("mount", None, b"/", None, 32 | 4096, None))
        attempt("chroot", lambda: os.chroot("/tmp"))
        attempt("setns", lambda: call("setns", os.open("/proc/1/ns/user", os.O_RDONLY), 0))
        attempt("keys", lambda: call("syscall", 250 if clone == 56 else 219, 0, -3, 1))
        attempt("root", lambda: os.setuid(0))
        attempt("hostname", lambda: socket.sethostname("x"))
        attempt("device", lambda: os.mknod("/tmp/sda", 0o60600, os.makedev(8, 0)))
        """
    found = attempts(pool, source)
    assert found.pop("root") in ("OSError", "PermissionError")  # there is no root to become
    assert set(found.values()) <= {"refused", "PermissionError"}


def test_capabilities(pool: SandboxPool) -> None:
    """It has none, can gain none, and is nobody."""
    source = """\
        for line in open("/proc/self/status"):
            name, _, value = line.partition(":")
            if name.startswith("Cap") or name in ("NoNewPrivs", "Seccomp", "Uid", "Gid"):
                attempt(name, lambda: {int(word, 16) for word in value.split()})
        """
    nobody = {0x65534}
    assert attempts(pool, source) == {
        **{name: {0} for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
        "NoNewPrivs": {1},
        "Seccomp": {2},
        "Uid": nobody,
        "Gid": nobody,
    }


def test_writing_outside(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Nothing but the scratch can be written: not the libraries, not the interpreter, not our code."""
    source = f"""\
        import pathlib, json
        folders = ["/", "/usr", "/usr/lib", "/etc", "/dev", "/evalkit/inside", "/proc/1",
                   json.__path__[0], {str(Path(sandbox.view.interpreter).parent)!r}]
        folders += [path for path in sys.path if path.endswith("site-packages")]
        for folder in folders:
            attempt(folder, lambda: open(folder + "/new", "w"))
        attempt("replace", lambda: open("/evalkit/inside/__main__.py", "w"))
        attempt("chmod", lambda: os.chmod("/usr", 0o777))
        attempt("sysctl", lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/tmp/x"))
        """
    found = attempts(pool, source)
    assert set(found.values()) <= {"OSError", "PermissionError", "FileNotFoundError"}


def test_leaving_something_for_the_next(pool: SandboxPool, sandbox: Sandbox) -> None:
    """Files, shared memory and queues of one program are gone for the next."""
    # an interpreter that lies below /tmp is shown there
    shown = {target.split("/")[2] for _, target in sandbox.view.binds if target.startswith("/tmp/")}
    source = f"""\
        import glob
        own = [name for name in os.listdir("/tmp") if name not in {shown!r}]
        attempt("found", lambda: sorted(own + glob.glob("/tmp/box/**", recursive=True) + os.listdir("/dev/shm")))
        for path in ("/tmp/left", "/tmp/box/left", "/dev/shm/left"): open(path, "w").close()
        attempt("queue", lambda: call("msgget", 0x1234, 0o3600))
        """
    first, second = attempts(pool, source), attempts(pool, source)
    assert first == second
    assert first["found"] == ["/tmp/box/", "/tmp/box/main.py", "box", "shm"]
    assert first["queue"] == "done"  # made for the first time, both times: IPC_EXCL


def test_daemons(pool: SandboxPool) -> None:
    """A process that has left its session and its parent ends with the program, heeding no signal."""
    source = """\
        import signal, time
        for number in set(range(1, 65)) - {signal.SIGCHLD}:
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                for fd in (0, 1, 2): os.close(fd)
                time.sleep(3600)
            os._exit(0)
        os.wait()
        attempt("started", lambda: True)
        """
    assert attempts(pool, source) == {"started": True}


def test_ignoring_every_signal(pool: SandboxPool) -> None:
    """A program that ignores what can be ignored, in a loop, ends at its time limit."""
    source = """\
        import os, signal
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        for _ in range(3):
            if os.fork() == 0: os.setsid()
        while True: pass
        """
    result = pool.run_one(Program(source=textwrap.dedent(source), wall_s=1.0))
    assert result.ended is Ending.WALL_TIMEOUT


def test_forging_a_result(pool: SandboxPool) -> None:
    """No descriptor leads to whoever reads the result; what is written anywhere changes nothing."""
    source = """\
        import json, os, struct
        body = json.dumps({"ended": "ok", "exit_code": 0, "signal": None, "stdout": "", "stderr": "",
                           "stdout_cut": 0, "stderr_cut": 0, "wall_s": 0, "cpu_s": 0}).encode()
        assert sorted(os.listdir("/proc/self/fd")) == ["0", "1", "2", "3"]  # 3 is this listing
        for fd in (0, *range(3, 4096)):
            try: os.write(fd, struct.pack(">I", len(body)) + body)
            except OSError: pass
        for pid in (1, os.getppid()):
            try: names = os.listdir(f"/proc/{pid}/fd")
            except OSError: continue
            for name in names: open(f"/proc/{pid}/fd/{name}", "wb").write(body)
        os._exit(9)
        """
    result = pool.run_one(Program(source=textwrap.dedent(source)))
    assert (result.ended, result.exit_code) == (Ending.FAILED, 9)


def test_terminal(pool: SandboxPool) -> None:
    """There is no terminal to type into."""
    source = """\
        attempt("tty", lambda: os.open("/dev/tty", os.O_RDWR))
        attempt("ptmx", lambda: os.open("/dev/ptmx", os.O_RDWR))
        attempt("devices", lambda: sorted(os.listdir("/dev")))
        """
    found = attempts(pool, source)
    assert found.pop("devices") == sorted(
        ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]
    )
    assert set(found.values()) == {"FileNotFoundError"}


def test_programs_at_the_same_time(pool: SandboxPool) -> None:
    """Two programs that run at once share no process, no file, no socket and no queue."""
    source = """\
        import time
        server = socket.socket(socket.AF_UNIX)
        attempt("bind", lambda: server.bind("\\0meeting-point"))
        open("/tmp/mine", "x").close()
        time.sleep(0.5)
        attempt("pids", lambda: len([name for name in os.listdir("/proc") if name.isdigit()]))
        """
    found: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(attempts(pool, source))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"bind": None, "pids": 2}] * 2
