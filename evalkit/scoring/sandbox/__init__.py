"""Runs what a model wrote, where it can read nothing, reach nobody and leave nothing behind.

    sandbox = find_sandbox(env)                       what works on this machine, or an error that helps
    with SandboxPool(sandbox, workers=2) as pool:     many programs, warm
        result = pool.run_one(Program(source="print(input())", stdin=b"hello\n"))
    with session_zygote(sandbox) as zygote, PythonSession(zygote) as session:
        answer = session.execute("1 + 1", timeout_s=10).text

docs/adr/0017-sandbox.md says what is kept from whom, and by what.
"""

from evalkit.scoring.sandbox.find import Finding, Sandbox, find_sandbox, probe
from evalkit.scoring.sandbox.pool import SandboxPool
from evalkit.scoring.sandbox.program import Ending, Limits, Program, ProgramResult
from evalkit.scoring.sandbox.session import CellEnding, CellResult, PythonSession, session_zygote
from evalkit.scoring.sandbox.view import view_of

__all__ = [
    "CellEnding",
    "CellResult",
    "Ending",
    "Finding",
    "Limits",
    "Program",
    "ProgramResult",
    "PythonSession",
    "Sandbox",
    "SandboxPool",
    "find_sandbox",
    "probe",
    "session_zygote",
    "view_of",
]
