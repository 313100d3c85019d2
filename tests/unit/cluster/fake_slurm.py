"""Slurm's commands without Slurm: they run batch scripts as processes and keep states in a folder.

Linked as sbatch, srun, squeue, sacct, scancel and scontrol into a folder on PATH. Every call is noted
in `calls.jsonl`. Files in the folder change what happens: `refuse` holds sbatch's error, `hold` makes
jobs wait, `reason` says why they do, `idle` has those that run do nothing, `broken` makes every query
fail, `no_accounting` makes sacct fail, `deaf` keeps scancel from doing anything, `denied` keeps scontrol
from changing jobs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def options(script: str) -> dict[str, str]:
    found = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH --"):
            key, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[key] = "".join(shlex.split(value))
    return found


def sbatch(argv: list[str]) -> int:
    if (STATE / "refuse").exists():
        print((STATE / "refuse").read_text(), file=sys.stderr)
        return 1
    given = options(Path(argv[0]).read_text())
    number = len(list(STATE.glob("job-*.json"))) + 100
    count = re.match(r"0-(\d+)", given.get("array", ""))
    elements = [f"{number}_{i}" for i in range(int(count[1]) + 1)] if count else [str(number)]
    held = (STATE / "hold").exists() or "dependency" in given
    pids = {} if held else {e: start(argv[0], e, given["output"]) for e in elements}
    job = {"id": number, "elements": elements, "name": given["job-name"], "pids": pids, "ended": {}}
    job |= {"env": sorted(os.environ), "script": argv[0], "dependency": given.get("dependency")}
    (STATE / f"job-{number}.json").write_text(json.dumps(job))
    print(f"Submitted batch job {number}")
    return 0


def start(script: str, element: str, output: str) -> int:
    main, _, index = element.partition("_")
    env = {**os.environ, "SLURM_JOB_ID": main, "SLURM_JOB_NODELIST": "fake1"}
    if index:
        env |= {"SLURM_ARRAY_JOB_ID": main, "SLURM_ARRAY_TASK_ID": index}
    path = output.replace("%A", main).replace("%a", index).replace("%j", main)
    command = ["sleep", "infinity"] if (STATE / "idle").exists() else ["bash", script]
    with Path(path).open("ab") as log:
        return subprocess.Popen(
            command, env=env, stdout=log, stderr=log, start_new_session=True
        ).pid


def srun(argv: list[str]) -> int:
    command = argv[argv.index("--output") + 2 :]
    while command[0].startswith("-"):
        command.pop(0)
    os.execvp(command[0], command)


def jobs() -> list[tuple[Path, dict]]:
    return [(path, json.loads(path.read_text())) for path in sorted(STATE.glob("job-*.json"))]


def state(job: dict, element: str) -> str:
    if element in job["ended"]:
        return job["ended"][element]
    if element not in job["pids"]:
        return "PENDING"
    try:
        stat = Path(f"/proc/{job['pids'][element]}/stat").read_text()
        return "COMPLETED" if stat.rsplit(")", 1)[1].split()[0] == "Z" else "RUNNING"
    except FileNotFoundError:
        return "COMPLETED"


def asked(argv: list[str]) -> list[str]:
    return argv[argv.index("-j") + 1].split(",")


def queue_of_run(name: str) -> int:
    for _, job in jobs():
        for e in job["elements"]:
            if job["name"] == name and state(job, e) in ("PENDING", "RUNNING"):
                row = [job["id"], e, state(job, e), "None", "fake1", name, job["script"]]
                print("|".join(map(str, row)))
    return 0


def squeue(argv: list[str]) -> int:
    if named := [option.partition("=")[2] for option in argv if option.startswith("--name=")]:
        return queue_of_run(named[0])
    known = [
        (job, e) for _, job in jobs() if str(job["id"]) in asked(argv) for e in job["elements"]
    ]
    live = [(job, e) for job, e in known if state(job, e) in ("PENDING", "RUNNING")]
    if "-o" in argv and argv[argv.index("-o") + 1] == "%A|%e":
        print(f"{argv[argv.index('-j') + 1]}|N/A")
    elif not live:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    else:
        for job, e in live:
            given = STATE / "reason"
            why = given.read_text() if given.exists() else "Priority"
            reason = why if state(job, e) == "PENDING" else "None"
            print("|".join([e, state(job, e), reason, "fake1", "", "N/A", job["name"]]))
    return 0


def sacct(argv: list[str]) -> int:
    if (STATE / "no_accounting").exists():
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    (wanted,) = [a.partition("=")[2].split(",") for a in argv if a.startswith("--format=")]
    for _, job in jobs():
        if str(job["id"]) in asked(argv):
            now = {"ExitCode": "0:0", "NodeList": "fake1", "JobName": job["name"]}
            rows = [{**now, "JobID": e, "State": state(job, e)} for e in job["elements"]]
            for row in [{**now, **row} for row in job.get("history", rows)]:
                print("|".join(row.get(name, "Unknown") for name in wanted))
    return 0


def scancel(argv: list[str]) -> int:
    for path, job in jobs():
        if str(job["id"]) in argv and not (STATE / "deaf").exists():
            for e in job["elements"]:
                if state(job, e) == "RUNNING":
                    os.killpg(job["pids"][e], signal.SIGKILL)
                job["ended"].setdefault(e, "CANCELLED by 0")
            path.write_text(json.dumps(job))
    return 0


def scontrol(argv: list[str]) -> int:
    if argv[:2] == ["show", "config"]:
        print("MaxArraySize            = " + os.environ.get("FAKE_MAX_ARRAY", "1001"))
        return 0
    if argv[:2] == ["show", "hostnames"]:
        print(argv[2].replace(",", "\n"))
        return 0
    if argv[:2] == ["show", "node"]:
        return int(argv[2] not in os.environ.get("FAKE_NODES", "").split(","))
    if argv[:3] == ["-o", "show", "partition"]:
        print(f"PartitionName={argv[3]} TotalNodes={len(os.environ['FAKE_NODES'].split(','))}")
        return 0
    if argv[0] == "update":
        return update(dict(option.split("=", 1) for option in argv[1:]))
    print((STATE / "requeue").read_text(), file=sys.stderr)
    return 1


def update(given: dict[str, str]) -> int:
    path = STATE / f"job-{given['JobId']}.json"
    job = json.loads(path.read_text())
    if state(job, job["elements"][0]) != "PENDING" or (STATE / "denied").exists():
        print("Job is no longer pending execution for job 1", file=sys.stderr)
        return 1
    path.write_text(json.dumps({**job, "dependency": given["Dependency"]}))
    return 0


def main() -> int:
    name = Path(sys.argv[0]).name
    with (STATE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([name, *sys.argv[1:]]) + "\n")
    if (STATE / "broken").exists() and name != "sbatch":
        print(f"{name}: error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    return globals()[name](sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
