"""The environment a command sees: the process's own, and below it an `--env-file`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from evalkit.errors import UsageError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def command_environment(env_file: str | None) -> dict[str, str]:
    """Variables for a command. Variables that are set win over the file's.

    The file's are put into the environment too: servers and jobs of this command inherit them.
    """
    if env_file is not None:
        for name, value in read_env_file(Path(env_file)).items():
            os.environ.setdefault(name, value)
    return dict(os.environ)


def read_env_file(path: Path) -> dict[str, str]:
    """NAME=VALUE lines; `#` comments, `export` and quotes around values are allowed.

    Raises UsageError naming the line, never showing a value.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read --env-file {path}: {error}") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UsageError(f"{path}:{number}: expected NAME=VALUE")
        name, value = match[1], match[2].strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found
