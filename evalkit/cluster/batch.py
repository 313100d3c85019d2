"""The shell around a worker: what a batch script does before srun and after it, in a few lines.

Bash decides nothing that Python could. What is left to it is what Python cannot do:

- to outlive a TERM. Slurm sends it to the batch step too (time limit, preemption, cancel), and a bash
  that dies of it takes srun, and so the worker's drain, along. With a trap it waits for srun to end;
- to ask Slurm for a requeue when the worker cannot: it is in a container without Slurm's commands, or the
  controller is too slow for its last seconds. `incomplete` keeps Slurm from reviving a cancelled job, but
  also one that reached its time limit (and calls both a success); so that one is looked up, and meant;
- to go on when the worker ended with a code of nobody's choice: killed by the kernel, or never begun for
  want of a mount or an interpreter. `evalkit.cluster.aftermath` decides then; where Python does not run
  on the node either, a line is left for `evalkit.cluster.deaths`, and their number is the limit.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REQUEUE_CODE = 85
"""Exit code of a worker that wants its job requeued by the batch script."""
ENDED_CODE = 86
"""Exit code of a worker whose job ends by decision: it failed for good, or is over a limit."""
TERMINATED = 128 + 15
"""Exit code after SIGTERM, as shells report it: the job is requeued, or was cancelled."""
CHOSEN = (0, ENDED_CODE, TERMINATED)
"""Codes after which there is nothing left to do."""
DEAF = ("sh", "-c", 'trap "" TERM USR2; exec "$@"', "sh")
"""argv before the interpreter's: ignored signals stay ignored until Python takes them."""
OUTLIVE = "trap : TERM"
"""Bash runs a trap when the command in the foreground has ended; its children hear the signal."""
FORGET = "unset SUBMITIT_PREEMPT_SIGNAL"
"""Set by a module or a profile it would move submitit's own handler, and leave ours without a signal."""
AFTERMATH_S = 60
"""For the decision in Python: a few commands of Slurm's, 8 s each at the most, and some small files."""
JOB = 'job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
AGAIN = (
    "again() { for pause in 2 8 0; do how=incomplete",
    '  scontrol -o show job "$job" | grep -q " Reason=TimeLimit " && how=',
    '  scontrol requeue ${how:+"$how"} "$job" && return; sleep "$pause"; done; }',
)
"""Three tries within 10 s."""


def render_gather_teardown() -> list[str]:
    """Shell lines after the srun of the job behind the replicas: it asks for a requeue, or says itself
    how it ended."""
    return [
        "code=$?",
        JOB,
        *AGAIN,
        f'[ "$code" -ne {REQUEUE_CODE} ] || again',
        'exit "$code"',
    ]


def render_teardown(root: Path, python: str, max_failures: int) -> list[str]:
    """Shell lines after srun. `python` is the interpreter as a shell command."""
    quoted = shlex.quote(str(root))
    codes = "|".join(map(str, CHOSEN))
    ask = (
        f"timeout -s KILL {AFTERMATH_S} {shlex.join(DEAF)} {python} -m evalkit.cluster.aftermath "
        f'{quoted} "$code"'
    )
    return [
        "code=$? verdict=$?",
        JOB,
        f'deaths={shlex.quote(str(root / "cluster"))}/"$job.deaths"',
        *AGAIN,
        f'case "$code" in {codes}|{REQUEUE_CODE}) ;; *)',
        f"  {ask}",
        "  verdict=$? ;; esac",
        f'case "$verdict" in {codes}) ;; {REQUEUE_CODE}) again ;; *)',
        '  if echo "${SLURM_RESTART_COUNT:-0} $code $(date +%s) ${SLURMD_NODENAME:-}" >>"$deaths"',
        '  then tries=$(grep -c . "$deaths"); else tries=$((${SLURM_RESTART_COUNT:-0} + 1)); fi',
        f'  [ "$tries" -gt {max_failures} ] || again ;; esac',
        'exit "$code"',
    ]
