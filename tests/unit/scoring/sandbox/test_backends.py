"""The command lines that start a sandbox, whole."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from evalkit.scoring.sandbox.backends import Apptainer, Bubblewrap, Namespaces, Start, Unsafe
from evalkit.scoring.sandbox.view import INSIDE, View, environment

VIEW = View(
    interpreter="/opt/py/bin/python",
    binds=(("/usr", "/usr"), ("/data/opt py", "/opt/py"), ("/src/inside", "/evalkit/inside")),
    links=(("usr/lib", "/lib"), ("/tmp/shm", "/dev/shm")),
)
USER = Start(VIEW, "nested", is_root=False)
ROOT = Start(VIEW, "single", is_root=True, preload=("numpy",), scratch_bytes=1000)


def settings(argv: tuple[str, ...]) -> dict[str, object]:
    """What the zygote is told, checked to be started as it must be."""
    assert argv[-6:-1] == ("/opt/py/bin/python", "-s", "-B", "-m", "inside")
    told: dict[str, object] = json.loads(argv[-1])
    assert told.pop("shown_in_scratch") == []
    assert told.pop("environment") == environment("/opt/py/bin/python")
    return told


def test_bubblewrap_as_a_user() -> None:
    """A user namespace, no network, nothing but the view, everything read-only, no capability."""
    command = Bubblewrap("/bin/bwrap").render_command(USER)
    assert " ".join(command.argv[:-6]) == (
        "/bin/bwrap --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try"
        " --hostname sandbox --as-pid-1 --new-session --cap-drop ALL"
        " --unshare-user --uid 65534 --gid 65534 --tmpfs /dev --dir /tmp"
        " --dir /evalkit --dir /opt"
        " --ro-bind /usr /usr --ro-bind /data/opt py /opt/py --ro-bind /src/inside /evalkit/inside"
        " --dev-bind /dev/full /dev/full --dev-bind /dev/null /dev/null"
        " --dev-bind /dev/random /dev/random --dev-bind /dev/urandom /dev/urandom"
        " --dev-bind /dev/zero /dev/zero"
        " --symlink usr/lib /lib --symlink /tmp/shm /dev/shm"
        " --proc /proc --remount-ro /dev --remount-ro / --chdir /evalkit --"
    )
    told = {"mode": "nested", "preload": [], "optional": [], "mounts_proc": False, "uid": None}
    assert settings(command.argv) == told


def test_bubblewrap_as_root() -> None:
    """Root keeps what it needs to become nobody; one program's sandbox has its scratch from outside."""
    command = Bubblewrap("bwrap").render_command(ROOT)
    words = " ".join(command.argv)
    assert "--unshare-user" not in words
    assert (
        "--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP"
        " --cap-add CAP_SYS_ADMIN --tmpfs /dev --perms 1777 --size 1000 --tmpfs /tmp --dir" in words
    )
    assert "--dir /proc --remount-ro /dev" in words
    told = {"mode": "single", "preload": ["numpy"], "optional": [], "mounts_proc": True}
    assert settings(command.argv) == {**told, "uid": 65534}


def test_namespaces() -> None:
    """The launcher gets the view as JSON, and a user namespace only where it is not root."""
    command = Namespaces().render_command(USER)
    assert command.argv[:-1] == (sys.executable, "-s", "-B", "-m", "inside.enter")
    assert command.cwd == str(INSIDE.parent)
    view = json.loads(command.argv[-1])
    assert settings(tuple(view.pop("argv")))["uid"] is None
    assert view == {
        "binds": [list(pair) for pair in VIEW.binds],
        "links": [list(pair) for pair in VIEW.links],
        "devices": ["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"],
        "scratch": None,
        "user_namespace": True,
    }
    as_root = json.loads(Namespaces().render_command(ROOT).argv[-1])
    assert as_root["user_namespace"] is False
    assert as_root["scratch"] == "size=1000,nr_inodes=1024,mode=700,uid=65534,gid=65534"


def test_apptainer() -> None:
    """The image brings the system, so only our code and the caller's paths are bound, read-only."""
    start = replace(USER, view=replace(VIEW, binds=VIEW.binds[2:], links=()))
    command = Apptainer("/opt/bin/apptainer", "/images/py.sif").render_command(start)
    variables = [f"--env {k}={v}" for k, v in environment("/opt/py/bin/python").items()]
    assert " ".join(command.argv[:-6]) == (
        "/opt/bin/apptainer --quiet exec --containall --cleanenv --no-init --no-home"
        " --net --network none --uts --no-privs --bind /src/inside:/evalkit/inside:ro "
        + " ".join(variables)
        + " --pwd /evalkit /images/py.sif"
    )
    assert settings(command.argv)["mode"] == "nested"
    as_root = Apptainer("apptainer", "i").render_command(replace(start, is_root=True))
    assert "--no-privs" not in as_root.argv
    assert settings(as_root.argv)["uid"] == 65534


def test_unsafe() -> None:
    """Nothing but the interpreter, as whoever we are."""
    command = Unsafe().render_command(replace(ROOT, mode="unsafe"))
    assert command.argv[0] == VIEW.interpreter
    assert settings(command.argv)["uid"] is None


def test_environment_has_no_names_of_ours() -> None:
    """The variables are fixed; only the interpreter's folder enters."""
    assert environment("/opt/py/bin/python") == {
        "PATH": "/opt/py/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp/box",
        "TMPDIR": "/tmp",
        "USER": "nobody",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "PYTHONHASHSEED": "0",
    }
