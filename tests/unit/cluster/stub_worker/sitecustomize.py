"""A worker without a model, put in the place of evalkit's in processes that have this on PYTHONPATH.

It writes what it was given to `worker-<replica>-<n>.json`, waits for a file `release`, or for
`release-<replica>-<n>`, and notes drains, which do not end while there is a file `stubborn`. `release`
holds the code to end with; or `fail`, to fail as with a server that died, leaving a record of the attempt.
"""

import json
import sys
import time
import types
from dataclasses import asdict
from pathlib import Path

worker = types.ModuleType("evalkit.cluster.worker")
here: list[Path] = []


def run_replica(run_dir, replica, job):
    import os

    here.append(run_dir)
    path = run_dir / f"worker-{replica}-{len(list(run_dir.glob(f'worker-{replica}-*.json')))}.json"
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(json.dumps({**asdict(job), "env": dict(os.environ), "pid": os.getpid()}))
    hidden.rename(path)
    orders = [run_dir / "release", run_dir / path.stem.replace("worker", "release", 1)]
    while not (order := "".join(each.read_text() for each in orders if each.exists())):
        time.sleep(0.05)
    if order == "fail":
        fail(run_dir, replica, job)
    return int(order or 0)


def fail(run_dir, replica, job):
    from evalkit.cluster.attempts import AttemptRecord, begin_attempt, write_attempt
    from evalkit.cluster.failures import classify
    from evalkit.errors import ServerDiedError
    from evalkit.store.layout import RunFolder

    folder, now = RunFolder(run_dir), time.time()
    error = ServerDiedError("the server died in the test")
    record = AttemptRecord(
        replica=replica,
        attempt=begin_attempt(folder, replica).number,
        executor=job.executor,
        job_id=job.job_id,
        restart_count=job.restart_count,
        host=job.host,
        nodes=job.nodes,
        gpus=1,
        started=now,
        last=now,
        ended=now,
        end="failed",
        failure=classify(error, node=job.host),
    )
    write_attempt(folder, record)
    raise error


def request_drain(reason, wait_s=25.0):
    for run_dir in here:
        with (run_dir / "drains").open("a") as drains:
            drains.write(f"{reason}\n")
        while wait_s and (run_dir / "stubborn").exists():
            time.sleep(0.05)


worker.run_replica = run_replica
worker.request_drain = request_drain
worker.drain_before_end = request_drain
sys.modules["evalkit.cluster.worker"] = worker
