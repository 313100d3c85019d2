"""Runs a program on its tests, one after the other, and writes down what came of each.

The job is on standard input, the reports go to standard output: a line of JSON for each test, followed
by as many bytes as it says. The last line says whether all tests were run (`done`), a test ended
otherwise than by itself (`stopped`), or the time came to have the results so far compared (`paused`).
What was expected is not known here.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from .child import Child, Frame, LeftoverError, TooMuchError, shield
from .runner import (
    RAISED,
    READY,
    RETURNED,
    Frames,
    Prepared,
    prepare,
    renew_streams,
    run_all,
    run_one,
)

_FOLDER = "run"
"""Working folder of the program, made afresh for each process."""


class Supervisor:
    """One job."""

    def __init__(self, job: dict[str, Any], reports: int) -> None:
        self._job = job
        self._reports = reports
        self._wake = shield()
        self._limit_s: float = job["limit_s"]
        self._started = time.monotonic()

    def run(self) -> None:
        """All tests, or as many as it takes to know."""
        in_process = self._job["grader"] != "strict-subprocess"
        self._write(end=self._run_together() if in_process else self._run_apart())

    def _run_together(self) -> str:
        nothing = os.open(os.devnull, os.O_RDONLY)
        child = self._start(lambda frames: run_all(self._job, frames), nothing, streams=False)
        try:
            if not self._expect(child, -1, READY):
                return "stopped"
            for index in range(len(self._job["inputs"])):
                if not self._expect(child, index, RETURNED):
                    return "stopped"
                if self._is_time(index):
                    return "paused"
        finally:
            with suppress(
                LeftoverError
            ):  # nothing runs beside it any more, and the sandbox ends it
                _tidy(child)
        return "done"

    def _expect(self, child: Child, index: int, kind: bytes) -> bool:
        """The next frame; it is reported unless it is that the program is ready."""
        started, cpu_s = time.monotonic(), child.spent_cpu_s()
        try:
            frame = child.next_frame(started + self._limit_s, self._most(index))
        except TooMuchError:
            return self._report(index, "output_limit", started, child)
        if self._is_late(started):
            spent = child.spent_cpu_s() - cpu_s
            return self._report(index, "timeout", started, child, cpu_s=spent)
        if frame is None or frame.kind not in (kind, RAISED):
            return self._report(index, "died", started, child)
        if frame.kind == RAISED:
            return self._report(index, "raised", started, child, detail=frame.content)
        return kind == READY or self._report(index, "returned", started, child, frame.content)

    def _run_apart(self) -> str:
        prepared = prepare(self._job)
        gc.collect()
        gc.freeze()  # or each process's first collection copies our memory
        for index in range(len(self._job["inputs"])):
            try:
                if not self._run_once(prepared, index):
                    return "stopped"
            except LeftoverError:  # they would run beside the next test, and take its time
                detail = b"processes that it started cannot be ended"
                self._report(index, "died", time.monotonic(), None, detail=detail)
                return "stopped"
            except OSError as error:  # only a test before can have used up what is missing now
                if index == 0:
                    raise
                self._report(index, "died", time.monotonic(), None, detail=str(error).encode())
                return "stopped"
            if self._is_time(index):
                return "paused"
        return "done"

    def _run_once(self, prepared: Prepared, index: int) -> bool:
        is_function = self._job["function"] is not None
        stdin = _input_file("" if is_function else self._job["inputs"][index])
        started = time.monotonic()
        child = self._start(
            lambda frames: run_one(self._job, prepared, index, frames),
            stdin,
            streams=not is_function,
        )
        frame: Frame | None = None
        late = too_much = False
        try:
            frame = child.until_end(started + self._limit_s, self._most(index))
            late = self._is_late(started)
        except TooMuchError:
            too_much = True
        finally:
            _tidy(child)
        if too_much:
            return self._report(index, "output_limit", started, child)
        if late:
            return self._report(index, "timeout", started, child)
        if frame is not None and frame.kind == RAISED:
            return self._report(index, "raised", started, child, detail=frame.content)
        if child.status == 0 and (frame is not None or not is_function):
            content = frame.content if is_function and frame is not None else child.stdout
            return self._report(index, "returned", started, child, content)
        return self._report(index, "died", started, child, detail=child.stderr[-300:])

    def _start(self, be: Any, stdin: int, *, streams: bool) -> Child:
        Path(_FOLDER).mkdir()
        reports = self._reports

        def go(descriptor: int) -> NoReturn:
            assert reports != descriptor
            renew_streams()
            be(Frames(descriptor))
            os._exit(98)

        try:
            return Child(go, self._wake, stdin, _FOLDER, streams=streams)
        finally:
            os.close(stdin)

    def _most(self, index: int) -> int:
        return int(self._job["most_bytes"][max(index, 0)])

    def _is_late(self, started: float) -> bool:
        """Also where it has ended since: it may have stopped us in order to be given more time."""
        return time.monotonic() - started > self._limit_s

    def _is_time(self, index: int) -> bool:
        """Some results are to be looked at before more time is spent."""
        is_last = index == len(self._job["inputs"]) - 1
        return not is_last and time.monotonic() - self._started > self._job["pause_s"]

    def _report(  # noqa: PLR0913 - the fields of one line
        self,
        index: int,
        ended: str,
        started: float,
        child: Child | None,
        content: bytes = b"",
        *,
        detail: bytes = b"",
        cpu_s: float | None = None,
    ) -> bool:
        """Whether there is a reason to go on."""
        self._write(
            content,
            test=index,
            ended=ended,
            wall_s=round(time.monotonic() - started, 4),
            cpu_s=round(cpu_s if cpu_s is not None else (child.cpu_s if child else 0.0), 4),
            status=child.status if child else None,
            detail=detail.decode(errors="replace"),
            size=len(content),
        )
        return ended == "returned"

    def _write(self, content: bytes = b"", **line: Any) -> None:
        data = memoryview(json.dumps(line).encode() + b"\n" + content)
        while data:
            data = data[os.write(self._reports, data) :]


def _tidy(child: Child) -> None:
    """Raises LeftoverError."""
    child.end()
    shutil.rmtree(_FOLDER, ignore_errors=True)


def _input_file(text: str) -> int:
    """A file without a name: a program may seek in it, as in a file that a shell gives it."""
    descriptor, path = tempfile.mkstemp(dir=".")
    Path(path).unlink()
    data = memoryview(text.encode(errors="surrogatepass"))
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def main() -> None:
    """Read the job, do it, report."""
    job = json.loads(sys.stdin.buffer.read())
    with suppress(BrokenPipeError):
        Supervisor(job, os.dup(1)).run()
    os._exit(0)
