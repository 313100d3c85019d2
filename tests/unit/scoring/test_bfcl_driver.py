"""Which calls the driver lets the official code evaluate, and what it says of the others."""

from __future__ import annotations

import json
import keyword
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import ScorerError
from evalkit.scoring.bfcl_checks import render_calls
from evalkit.scoring.bfcl_driver import READY, refusal, run_calls
from evalkit.scoring.bfcl_simulators import failed_results, read_answer
from evalkit.scoring.sandbox import Ending, ProgramResult

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = {"cd", "sort"}
KNOWN: dict[str, Any] = {"json": json, "execute_multi_turn_func_call": print, "x_instance": 1}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "call",
    [
        "cd(folder='document')",
        "sort()",
        "cd(a=-1,b=[1, {'k': None}],c=1.5,d=True,e=nan,f=-inf)",
        "no_such_function(a=1)",
        "nothing.here(a=1)",
    ],
)
def test_plain_calls_are_evaluated(call: str) -> None:
    """Simulators' methods with JSON values, and what fails by itself in Python's words."""
    assert refusal(call, METHODS, KNOWN) is None


@pytest.mark.parametrize(
    "call",
    [
        "print(a=1)",
        "open(file='/etc/passwd')",
        "__import__(name='os')",
        "execute_multi_turn_func_call(func_call_list=['1'])",
        "json.loads(s='1')",
        "x_instance.cd(folder='x')",
        "__import__('os').system(command='id')",
        "(lambda: 1)(a=1)",
        "cd(**{'folder': 'x'})",
        "cd('x')",
        "cd(folder=__import__('os').getcwd())",
        "cd(folder=[x for x in ()])",
        "cd(folder={**{}})",
        "cd(folder=f'{1}')",
        "cd(folder=known)",
        "cd(folder='a') or print('b')",
        "[cd(folder='a')]",
        "cd",
        "1 + 1",
    ],
)
def test_anything_else_is_not(call: str) -> None:
    """Names that Python has, expressions in the place of names or values, and more than one call."""
    name = call.partition("(")[0]
    assert refusal(call, METHODS, KNOWN) == f"name {name!r} is not defined"


@pytest.mark.parametrize(
    "call", ["cd(folder='x'", "not python at all", "cd(a b='x')", "cd(a='\0')"]
)
def test_what_is_no_python_is_told_as_python_tells_it(call: str) -> None:
    """Without evaluating it."""
    with pytest.raises((SyntaxError, ValueError)) as caught:
        eval(call)
    assert refusal(call, METHODS, KNOWN) == str(caught.value)


@settings(max_examples=50)
@given(values=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), JSON))
def test_every_native_call_of_a_method_is_plain(values: dict[str, Any]) -> None:
    """Whatever JSON values its arguments have (Python's keywords excepted, which are no names there)."""
    named = {name: value for name, value in values.items() if not keyword.iskeyword(name)}
    [call] = render_calls([{"cd": json.dumps(named)}])
    assert refusal(call, METHODS, KNOWN) is None


@given(names=st.lists(st.text(max_size=40), min_size=1, max_size=3), value=JSON)
def test_no_argument_name_gets_code_evaluated(names: list[str], value: Any) -> None:
    """A call that is evaluated consists of a name and of values, however its arguments are called."""
    [call] = render_calls([{"cd": json.dumps(dict.fromkeys(names, value))}])
    if refusal(call, METHODS, KNOWN) is None:
        try:
            found = eval(call, {"cd": dict, "nan": 0.0, "inf": 0.0, "__builtins__": {}})
        except NameError:
            return
        assert isinstance(found, dict)


def official(name: str, evaluated: list[str]) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    """A stand-in for the official execution: it says what it was given to evaluate."""

    class Shell:
        def cd(self, folder: str) -> str:
            return folder

    shell = {name: Shell()}

    def execute(func_call_list: list[str], **_options: Any) -> tuple[list[str], dict[str, Any]]:
        evaluated.extend(func_call_list)
        return [f"did {call}" for call in func_call_list], shell

    return execute


def test_refused_calls_answer_in_their_place() -> None:
    """The others are executed in order, and the results stay in the order of the calls."""
    evaluated: list[str] = []
    calls = ["cd(folder='a')", "exec(source='b')", "cd(folder='c')"]
    results, instances = run_calls(official("Shell", evaluated), calls, METHODS, {})
    assert evaluated == ["cd(folder='a')", "cd(folder='c')"]
    assert results == [
        "did cd(folder='a')",
        "Error during execution: name 'exec' is not defined",
        "did cd(folder='c')",
    ]
    assert list(instances) == ["Shell"]


def ended(how: Ending, out: str = "", err: str = "") -> ProgramResult:
    """How a driver's program ended."""
    return ProgramResult(how, 0, None, out.encode(), err.encode(), 0, 0, 0.0, 0.0)


def test_an_answer_is_what_follows_the_ready_line() -> None:
    """One JSON object."""
    answer = read_answer(ended(Ending.OK, f'{READY}\n{{"results": ["a"]}}'), "e")
    assert (answer.value, answer.ended) == ({"results": ["a"]}, None)


@pytest.mark.parametrize("how", [Ending.CPU_TIMEOUT, Ending.MEMORY, Ending.OUTPUT_LIMIT])
def test_calls_that_end_the_program_are_the_models_own(how: Ending) -> None:
    """Each of them is told why; but only once the simulators were ready."""
    answer = read_answer(ended(how, f"{READY}\n"), "e")
    assert answer.value is None
    assert answer.ended is not None
    assert (
        failed_results(["a()", "b()"], answer.ended)
        == [f"Error during execution: {answer.ended}"] * 2
    )
    with pytest.raises(ScorerError, match="the simulators of e gave no answer"):
        read_answer(ended(how), "e")


@pytest.mark.parametrize(
    ("how", "out"),
    [
        (Ending.WALL_TIMEOUT, f"{READY}\n"),
        (Ending.FAILED, f"{READY}\n"),
        (Ending.OK, f"{READY}\n"),
        (Ending.OK, f"{READY}\n[1]"),
        (Ending.OK, '{"results": []}'),
    ],
)
def test_everything_else_is_a_failure_of_ours(how: Ending, out: str) -> None:
    """A node without time, a missing module, an answer that is none: never a result."""
    with pytest.raises(ScorerError, match=r"gave no answer .*: No module named 'mpmath'"):
        read_answer(ended(how, out, "Traceback\nNo module named 'mpmath'\n"), "e")
