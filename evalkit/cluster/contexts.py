"""What each server of an attempt is started with: its log, ports, key and caches.

No two servers share a port range or a key. Compile caches race between servers that share them, so each
attempt has a folder of its own, made with the first server. The attempt removes it, or its server's keeper;
where both were killed, the job's batch script does, or the run's next attempt on the node.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.cluster.nodes import follower_srun_args, replica_nodes
from evalkit.serving.deployment import ServerContext
from evalkit.serving.ports import derive_port_base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from evalkit.cluster.attempts import Attempt
    from evalkit.cluster.job import JobInfo
    from evalkit.recipe.schema import Cluster


def remove_caches(run_id: str, attempts: Iterable[str]) -> None:
    """Remove what attempts of a run that are over have left of caches on this node. Only our own."""
    for attempt in attempts:
        for path in Path(tempfile.gettempdir()).glob(f"evalkit-{run_id}-{attempt}-*"):
            facts = path.lstat()
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)


class Contexts:
    """Contexts of one attempt's servers."""

    def __init__(
        self, attempt: Attempt, run_id: str, job: JobInfo, cluster: Cluster, env: Mapping[str, str]
    ) -> None:
        self._attempt = attempt
        self._run_id = run_id
        self._job = job
        self._cluster = cluster
        self._env = env
        # Its name cannot be guessed: /tmp is everybody's.
        name = f"evalkit-{run_id}-{attempt.id}-{secrets.token_hex(8)}"
        self._cache = Path(tempfile.gettempdir()) / name

    def marker(self, number: int) -> str:
        """What the processes of the attempt's n-th server are known by."""
        return f"{self._run_id}-{self._attempt.id}-{number}"

    def make(self, number: int, on_progress: Callable[[str], None]) -> ServerContext:
        """Context of the attempt's n-th server, from 0."""
        attempt, folder = self._attempt, self._attempt.folder
        job = self._job.array_id or self._job.job_id
        digits = int("".join(c for c in job if c.isdigit()) or 0)
        index = int(attempt.replica.removeprefix("r")) + 8 * number
        return ServerContext(
            log_path=folder.server_log(attempt.replica, attempt.number),
            attempt=self.marker(number),
            host=self._job.host,
            port_base=derive_port_base(digits, index),
            prefix=self._cluster.server_prefix,
            env=self._env,
            run_dir=folder.root,
            cache_dir=self._cache,
            # Hexadecimal: a key that begins with a dash would be an option on a command line.
            api_key=secrets.token_hex(32),
            on_progress=on_progress,
            nodes=replica_nodes(self._cluster, self._job, self._env),
            srun_args=follower_srun_args(self._cluster),
        )

    def clean(self) -> None:
        """Remove the caches."""
        shutil.rmtree(self._cache, ignore_errors=True)
