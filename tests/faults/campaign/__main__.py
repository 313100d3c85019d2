"""`python -m tests.faults.campaign`: plays a campaign and says what came of it."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign.real import OPTIONS, draw_real, play_real, private_cluster
from tests.faults.campaign.report import render_report
from tests.faults.campaign.volume import Choice, draw, play_volume


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def main() -> int:
    """0 when everything held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, which is shown")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument(
        "--real", choices=("fault server", "vllm"), help="on a real Slurm, with this"
    )
    parser.add_argument("--only", default="", help="faults with this in their name")
    parser.add_argument("--skip", default="", help="no faults with this in their name")
    parser.add_argument("--mode", default="", help="one kind of server")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--keep", type=Path, help="a folder for the runs, which stay there")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    say(f"seed {seed}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="evalkit-faults-") as temporary:
        root = arguments.keep or Path(temporary)
        choice = Choice(arguments.only, arguments.skip, arguments.mode)
        if arguments.real:
            kinds = draw_real(seed, arguments.faults, choice)
            with private_cluster(*OPTIONS) as cluster:
                outcomes = play_real(cluster, root, arguments.real, kinds, seed, say)
        else:
            drawn = draw(seed, arguments.faults, choice)
            outcomes = play_volume(root, drawn, seed, say, arguments.jobs)
    say(render_report(outcomes, time.monotonic() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
