"""A worker without a model, put in the place of evalkit's in processes that have this on PYTHONPATH.

It writes what it was given to `worker-<replica>-<n>.json`, waits for a file `release`, and notes drains,
which do not end while there is a file `stubborn`.
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
    hidden.write_text(json.dumps({**asdict(job), "env": dict(os.environ)}))
    hidden.rename(path)
    while not (run_dir / "release").exists():
        time.sleep(0.05)
    return int((run_dir / "release").read_text() or 0)


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
