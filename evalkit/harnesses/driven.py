"""What all driven harnesses share: a unit is a program that asks the model by itself.

The program's exit code proves that it failed, never that it worked: what it wrote is read before a unit
counts as answered. Whatever is wrong is ours, so the unit stays owed, and is not a wrong answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.benchmarks.contract import Benchmark, P
from evalkit.benchmarks.data import DataSource
from evalkit.benchmarks.env import variable
from evalkit.errors import FailureKind, InfraError, ProgramHungError, ScorerError
from evalkit.harnesses.call import INSIDE
from evalkit.harnesses.env import harness_environment
from evalkit.redaction import spellings
from evalkit.serving.keeper import ENDED
from evalkit.serving.server import describe_code
from evalkit.store.hiding import copy_redacted
from evalkit.store.replayed import is_lost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from evalkit.benchmarks.contract import Answered, Driving, Sample

LOG = "program.log"
ARGUMENTS = "arguments.json"
ANSWER = "answer.json"
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024
LOOPBACK = "127.0.0.1,localhost"
TOKENS = 100_000
"""Typical tokens of a unit: many answers, so that each is leased alone and early."""


class DrivenBenchmark(Benchmark[P]):
    """A task that a program works on."""

    source = DataSource(generated=True)
    votes: ClassVar[bool] = False
    single_call: ClassVar[bool] = False
    whole: ClassVar[bool] = True
    drives: ClassVar[bool] = True
    counts_itself: ClassVar[bool] = True
    expected_tokens: ClassVar[int] = TOKENS

    def n_calls(self, sample: Sample) -> int | None:
        """Not known: the program decides."""
        return None


def program_environment(driving: Driving, more: Mapping[str, str]) -> dict[str, str]:
    """What a program sees: paths and the like, the gateway as clients of OpenAI look for it, and `more`.

    A proxy that the machine has is not asked for the gateway. The GPUs are the server's: a program sees none.
    """
    env = harness_environment({"CUDA_VISIBLE_DEVICES": ""})
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, (env.get(name), LOOPBACK)))
    env |= {"OPENAI_BASE_URL": driving.base_url, "OPENAI_API_KEY": driving.api_key}
    return {**env, **more}


async def run_program(
    driving: Driving, command: Sequence[str], env: Mapping[str, str], log: str = LOG
) -> None:
    """Run it to its end. Raises InfraError with the end of its log where its exit code is not 0, and where
    it was ended because it did nothing."""
    try:
        code = await driving.run(command, env, log)
    except ProgramHungError as error:  # ended by a SIGINT first: many say then where they were
        raise unit_error(error.message, driving.folder, log) from error
    if code != 0:
        raise unit_error(
            f"{Path(command[0]).name} failed ({describe_code(code)})", driving.folder, log
        )


def unit_error(what: str, folder: Path, log: str = LOG) -> InfraError:
    """Why a unit is owed: what was wrong, and what its program said last."""
    tail = log_tail(folder / log)
    said = f"; last lines of {folder.name}/{log}:\n{tail}" if tail else f"; {log} is empty"
    return InfraError(what + said, kind=FailureKind.CONFIG)


def log_tail(path: Path) -> str:
    """The last lines of a log, without its keeper's; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    said = [line for line in lines if line.strip() and not line.startswith(ENDED)]
    return "\n".join(said[-TAIL_LINES:])


def folders_of(answers: Sequence[Answered], run: Path) -> list[Path]:
    """Where the programs of a task left their files, in the order of its units.

    Raises ScorerError where one is gone, or has no file in it: its calls are in the journal, its files are not.
    """
    found = [run / folder_name(answer) for answer in answers]
    gone = [folder for folder in found if is_lost(folder)]
    if gone:
        raise ScorerError(
            f"{len(gone)} of {len(found)} folders that programs wrote are gone: {gone[0]}",
            hint=f"Put them back. Where they are lost, `evalkit gather {run} --replay` has their programs run "
            "again here, answered from the journal: nothing is asked of the model.",
        )
    return found


def folder_name(answer: Answered) -> str:
    """The name of a unit's folder below the run."""
    return str(answer.solution.data["folder"])


def passed_variables(names: Sequence[str]) -> dict[str, str]:
    """What a program gets of `pass_env`. Raises InfraError for a variable that is not set."""
    found = {name: value for name in names if (value := variable(name)) is not None}
    if unset := [name for name in names if name not in found]:
        raise InfraError(f"params.pass_env: {unset[0]} is not set on this machine")
    return found


def keep(file: Path, out: Path, name: str, passed: Sequence[str] = ()) -> None:
    """Copy a file of a program into the artifacts, as `name`; a text without the values of the variables
    `passed`, as far as they are set where this is called. Raises ScorerError where it is gone, OSError where
    it cannot be read, StoreError."""
    values = (value for each in passed if (value := variable(each)) is not None)
    try:
        copy_redacted(file, out / name, spellings(values))
    except FileNotFoundError as error:
        raise ScorerError(
            f"a file that a program wrote is gone: {file}",
            hint="Put it back. Where it is lost, move away what is left of its unit's folder: `evalkit gather "
            "--replay` then has the program write all of it again, answered from the journal.",
        ) from error


def shard_folder(index: int, total: int) -> str:
    """Where the files of a shard lie in the artifacts: at the top where there is just one."""
    return "" if total == 1 else f"{index:03}/"


def solution_data(driving: Driving, **found: Any) -> dict[str, Any]:
    """What a unit's record holds: where its files are, and what was found in them."""
    return {"folder": driving.name, **found}


def inside_command(
    python: Path, script: str, arguments: Mapping[str, Any], folder: Path
) -> list[str]:
    """The command for a script of `inside/` as a driven program; its files are in `folder`."""
    asked = folder / ARGUMENTS
    asked.write_text(json.dumps(arguments), "utf-8")
    files = [INSIDE / "run.py", INSIDE / script, asked, folder / ANSWER]
    return [str(python), "-s", "-B", *map(str, files)]


def read_answer(folder: Path) -> Any:
    """What the script returned. Raises InfraError where it refused or did not get so far."""
    try:
        said = json.loads((folder / ANSWER).read_bytes())
    except (OSError, ValueError) as error:
        raise unit_error(f"the program left no answer ({error})", folder) from error
    if "refused" in said:
        raise unit_error(said["refused"], folder)
    return said["answer"]
