"""Runs what a model wrote, where it can read nothing, reach nobody and leave nothing behind.

    sandbox = find_sandbox(env)                       what works on this machine, or an error that helps
    with SandboxPool(sandbox, workers=2) as pool:     many programs, warm
        result = pool.run_one(Program(source="print(input())", stdin=b"hello\n"))
    with session_zygote(sandbox) as zygote, PythonSession(zygote) as session:
        answer = session.execute("1 + 1", timeout_s=10).text
    sessions = SessionPool(lambda: sandbox, cores=8)  many of them, from an event loop

docs/adr/0017-sandbox.md says what is kept from whom, and by what.
"""

from evalkit.scoring.sandbox.find import Finding, Sandbox, find_sandbox, probe
from evalkit.scoring.sandbox.pool import SandboxPool
from evalkit.scoring.sandbox.program import Ending, Limits, Program, ProgramResult
from evalkit.scoring.sandbox.program_pool import ProgramPool
from evalkit.scoring.sandbox.session import (
    CellEnding,
    CellOutput,
    CellResult,
    PythonSession,
    session_zygote,
)
from evalkit.scoring.sandbox.session_pool import PooledSession, SessionPool
from evalkit.scoring.sandbox.view import view_of

__all__ = [
    "CellEnding",
    "CellOutput",
    "CellResult",
    "Ending",
    "Finding",
    "Limits",
    "PooledSession",
    "Program",
    "ProgramPool",
    "ProgramResult",
    "PythonSession",
    "Sandbox",
    "SandboxPool",
    "SessionPool",
    "find_sandbox",
    "probe",
    "session_zygote",
    "view_of",
]
