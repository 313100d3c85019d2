"""One log file, read as it grows, through truncation and rotation.

A file that shrinks is read again from its start; one that was replaced, too, after what was left of the
old one where it was only renamed, and after those that came and went between: files that are rotated
are read in the order in which they were written last. Nothing here knows what the lines mean.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TAIL_BLOCK = 64 * 1024
MAX_READ = 4 * 1024 * 1024
"""Bytes of one file between two looks at the others."""
PACKED = frozenset({".gz", ".bz2", ".xz", ".zst"})
"""Files that a rotation has packed since: not read."""
CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


class LogLine(NamedTuple):
    """One line of one log."""

    attempt: str
    """`r0.a1`; of a job's own output the replica, `r0`, or `gather`."""
    source: str
    """`worker`, `server`, or `server@1` for the server's part on the replica's second node; `job 7_0`."""
    text: str
    """Without its line break."""

    def __str__(self) -> str:
        return f"{self.attempt} {self.source}| {self.text}"


def printable(text: str) -> str:
    """A log's text without what a terminal would obey; tabs stay, a carriage return becomes a blank."""
    return CONTROL.sub("", text).replace("\r", " ")


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
    """Nothing new came at the last look: what there is has been read."""

    def skip_to_last(self, lines: int) -> None:
        """Start before the last `lines` lines of what is there now."""
        try:
            with self.path.open("rb") as file:
                about = os.fstat(file.fileno())
                self.inode = about.st_ino
                self.offset = tail_offset(file.read, file.seek, about.st_size, lines)
        except OSError:
            return  # not there yet: it is read from its start

    def read(self) -> list[LogLine]:
        """Lines that were completed since the last call; more of them are there until `quiet`."""
        left = b""
        try:
            with self.path.open("rb") as file:
                about = os.fstat(file.fileno())  # of what was opened, not of what is there by now
                if self.inode not in (None, about.st_ino):
                    left = self._left_behind(about)
                    if self.inode != about.st_ino:  # more of it, or another one before this
                        self.quiet = False
                        return self._take(left)
                elif about.st_size < self.offset:
                    self.offset, self.rest = 0, b""
                self.inode = about.st_ino
                file.seek(self.offset)
                new = file.read(MAX_READ)
        except OSError:
            self.quiet = True
            return []  # vanished, or not visible on this node yet: looked at again
        self.offset += len(new)
        self.quiet = not left + new
        return self._take(left + new)

    def _take(self, new: bytes) -> list[LogLine]:
        *whole, self.rest = (self.rest + new).split(b"\n")
        return [self._line(line) for line in whole]

    def _left_behind(self, present: os.stat_result) -> bytes:
        """What is unread of a file that was rotated away, at most MAX_READ bytes; at its end the file
        that followed it is next."""
        rotated = _by_age(self.path)
        at = next((n for n, (_, about) in enumerate(rotated) if about.st_ino == self.inode), None)
        if at is None:  # deleted: what was in it is lost
            self.offset, self.inode, self.rest = 0, present.st_ino, b""
            return b""
        with rotated[at][0].open("rb") as file:
            if os.fstat(file.fileno()).st_ino != self.inode:
                return b""  # renamed again at this moment
            file.seek(self.offset)
            block = file.read(MAX_READ)
        self.offset += len(block)
        if len(block) < MAX_READ:
            follower = rotated[at + 1][1] if at + 1 < len(rotated) else present
            self.offset, self.inode = 0, follower.st_ino
            if (self.rest + block)[-1:] not in (b"", b"\n"):
                block += b"\n"
        return block

    def finish(self) -> list[LogLine]:
        """The last line, when the file does not end in a line break."""
        rest, self.rest = self.rest, b""
        return [self._line(rest)] if rest else []

    def _line(self, line: bytes) -> LogLine:
        text = line.decode("utf-8", errors="replace").rstrip("\r")
        return LogLine(self.attempt, self.source, printable(text))


def _by_age(path: Path) -> list[tuple[Path, os.stat_result]]:
    """A log and the files it was renamed to, the one that was written last at the end."""
    found = []
    for each in path.parent.glob(f"{path.name}*"):
        if each.suffix not in PACKED:
            with contextlib.suppress(OSError):  # renamed at this moment
                found.append((each, each.stat()))
    return sorted(found, key=lambda file: (file[1].st_mtime_ns, file[0] == path))


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
