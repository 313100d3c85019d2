"""vLLM's own benchmark client as a process: `python -m bench.vllm_client ARGS of vllm bench serve`.

The CPU build's distribution is not called `vllm`, and the `vllm` command does not run there; the
module behind it does. Its last line of output is one line of JSON.
"""

from __future__ import annotations

import json

from vllm.benchmarks.serve import add_cli_args
from vllm.benchmarks.serve import main as run_client
from vllm.utils.argparse_utils import FlexibleArgumentParser

from bench.machine import Stopwatch


def main() -> None:
    """Run it; prints its duration, its counts and its whole CPU time (s)."""
    parser = FlexibleArgumentParser(description=__doc__)  # type: ignore[no-untyped-call]
    add_cli_args(parser)
    watch = Stopwatch.start()
    found = run_client(parser.parse_args())
    if found["failed"]:
        raise RuntimeError(f"{found['failed']} requests failed")
    result = {
        "wall_s": found["duration"],
        "cpu_s": watch.read()["cpu_s"],
        "requests": found["completed"],
        "completion_tokens": found["total_output_tokens"],
    }
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
