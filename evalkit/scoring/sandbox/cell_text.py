r"""What a model is shown of a cell's output: the clean-up that the published tool scores had.

Each stream loses ANSI codes, frames of IPython's own files, `Out[n]: ` and leading blank lines; it is
stripped on the right and cut at 1,000 characters. Source: the code sandbox of NeMo-Skills as of
December 2025. How it looks moves scores, so nothing here is tidied beyond that.
"""

from __future__ import annotations

import re

MOST_SHOWN = 1000
CUT_MARK = "<output cut>"

_ANSI = re.compile(r"\x1b(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")
_OUT = re.compile(r"^Out\[\d+\]:\s*")


def clean_stream(text: str) -> str:
    """One stream without what IPython adds for terminals; not cut."""
    lines = [
        _OUT.sub("", line)
        for line in _ANSI.sub("", text).split("\n")
        if not line.strip().startswith("File <ipython-")
    ]
    while lines and lines[0] == "":
        lines.pop(0)
    cleaned = "\n".join(lines).rstrip()
    return f"{cleaned}\n" if cleaned else ""


def cut_stream(text: str) -> str:
    """At most `MOST_SHOWN` characters, and the mark where there were more."""
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + CUT_MARK


def timeout_line(timeout_s: float) -> str:
    """The number as it was asked for: 10 and 10.0 read differently."""
    return f"Execution timed out after {timeout_s} seconds\n"


def join_streams(stdout: str, stderr: str) -> str:
    """The result string: both streams, without one final newline."""
    return (stdout + stderr).removesuffix("\n")
