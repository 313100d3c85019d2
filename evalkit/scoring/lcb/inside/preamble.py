"""What the original graders make available before a program: names, and a depth of recursion.

Source: LiveCodeBench/LiveCodeBench@28fef95e (MIT).
"""

_MODULES = (
    "string",
    "re",
    "datetime",
    "collections",
    "heapq",
    "bisect",
    "copy",
    "math",
    "random",
    "statistics",
    "itertools",
    "functools",
    "operator",
    "io",
    "sys",
    "json",
)
STARRED = (*_MODULES, "builtins", "typing")
"""Imported with `*` first, in this order; later ones win."""
IMPORTED = _MODULES
"""Then imported as modules."""
RECURSION_LIMIT = 50_000
PREAMBLE = "".join(
    [
        *(f"from {name} import *\n" for name in STARRED),
        *(f"import {name}\n" for name in IMPORTED),
        f"sys.setrecursionlimit({RECURSION_LIMIT})\n",
    ]
)
