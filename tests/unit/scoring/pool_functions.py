"""Functions for worker processes: spawned workers import them by name."""

import os
import signal
import threading

from evalkit.errors import ScorerError
from evalkit.scoring.math_equal import math_equal


def grade(item: str) -> str:
    """Do what the item says: fail, hang, die, grow, or return it in capitals."""
    if item == "fail":
        raise ScorerError("cannot grade this", hint="read it")
    if item == "hang":
        threading.Event().wait()
    if item == "loop":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            pass
    if item == "die":
        os._exit(7)
    if item == "bug":
        raise ValueError("a bug in a grader")
    if item == "grow":
        bytearray(2**40)
    return item.upper()


def main_thread(_: object) -> bool:
    """Whether the function runs where SIGALRM can be used."""
    return threading.current_thread() is threading.main_thread()


class Unloadable:
    """A function that pickles, but fails to unpickle in a worker."""

    def __call__(self, item: str) -> str:
        return item

    def __reduce__(self) -> tuple[type[int], tuple[str]]:
        return int, ("no number",)


def are_equal(pair: tuple[str, str | None]) -> bool:
    """Whether the second answer is the first, as mathematics."""
    return math_equal(*pair)
