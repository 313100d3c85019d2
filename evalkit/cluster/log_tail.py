"""One log file, read as it grows, through truncation and rotation.

A file that shrinks is read again from its start; one that was replaced, too, after what was left of the
old one where it was only renamed. Nothing here knows what the lines mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TAIL_BLOCK = 64 * 1024
MAX_READ = 4 * 1024 * 1024
"""Bytes of one file between two looks at the others."""


class LogLine(NamedTuple):
    """One line of one log."""

    attempt: str
    """`r0.a1`."""
    source: str
    """`worker`, `server`, or `server@1` for the server's part on the replica's second node."""
    text: str
    """Without its line break."""

    def __str__(self) -> str:
        return f"{self.attempt} {self.source}| {self.text}"


@dataclass(slots=True)
class Tail:
    """One file as far as it was read."""

    path: Path
    attempt: str
    source: str
    offset: int = 0
    inode: int | None = None
    rest: bytes = b""
    time: float | None = None
    """Of the last line that had one; before it, when the attempt started."""
    quiet: bool = False
    """Nothing new came at the last look."""

    def skip_to_last(self, lines: int) -> None:
        """Start before the last `lines` lines of what is there now."""
        try:
            with self.path.open("rb") as file:
                self.offset = tail_offset(file.read, file.seek, self.path.stat().st_size, lines)
        except OSError:
            return  # not there yet: it is read from its start

    def read(self) -> list[LogLine]:
        """Lines that were completed since the last call."""
        block = b""
        try:
            with self.path.open("rb") as file:
                about = self.path.stat()
                if self.inode is not None and about.st_ino != self.inode:
                    block = self._left_behind()
                    self.offset = 0
                elif about.st_size < self.offset:
                    self.offset, self.rest = 0, b""
                self.inode = about.st_ino
                file.seek(self.offset)
                new = file.read(MAX_READ)
        except OSError:
            return []  # vanished, or not visible on this node yet: looked at again
        self.offset += len(new)
        *whole, self.rest = (self.rest + block + new).split(b"\n")
        self.quiet = not new
        return [self._line(line) for line in whole]

    def _left_behind(self) -> bytes:
        """The unread end of a file that was rotated away; its last line is ended."""
        for path in self.path.parent.glob(f"{self.path.name}*"):
            try:
                with path.open("rb") as file:
                    if path.stat().st_ino == self.inode:
                        file.seek(self.offset)
                        left = file.read(MAX_READ)
                        return left if (self.rest + left)[-1:] in (b"", b"\n") else left + b"\n"
            except OSError:
                continue
        self.rest = b""
        return b""

    def finish(self) -> list[LogLine]:
        """The last line, when the file does not end in a line break."""
        rest, self.rest = self.rest, b""
        return [self._line(rest)] if rest else []

    def _line(self, line: bytes) -> LogLine:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        return LogLine(self.attempt, self.source, text)


def tail_offset(
    read: Callable[[int], bytes], seek: Callable[[int], int], size: int, lines: int
) -> int:
    """Where the last `lines` lines of a file of `size` bytes start; an unfinished line counts."""
    if lines <= 0:
        return size
    position, wanted = size, lines
    while position > 0:
        start = max(0, position - TAIL_BLOCK)
        seek(start)
        block = read(position - start)
        if position == size and block.endswith(b"\n"):
            wanted += 1  # the last line break ends a line, it does not start one
        breaks = [index for index, byte in enumerate(block) if byte == 0x0A]
        if len(breaks) >= wanted:
            return start + breaks[-wanted] + 1
        wanted -= len(breaks)
        position = start
    return 0
