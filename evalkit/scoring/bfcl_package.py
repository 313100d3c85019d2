"""The official package of BFCL v4: its data, the rendering of its requests and its checkers.

The wheel `bfcl-eval` asks for the SDK of every vendor and makes folders when it is imported. So it is
kept in a folder of its own, compared with a checksum before one line of it runs, imported by that
folder with stand-ins for what evalkit never uses (the table of vendors' models, parsers of Java and
JavaScript source, retries), and leaves no module behind. Data and checkers are of one wheel and stay
together: the data on GitHub has moved since. What runs a model's calls is not here, but in
`bfcl_driver`, in the sandbox.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.scoring.env import with_environment
from evalkit.scoring.vendored import PIP, vendor_command, vendored_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MODULE = "bfcl_eval"
RELEASE = "2025.11.3.4"
SOURCE = f"PyPI bfcl-eval=={RELEASE}"
REQUIREMENTS = Path(__file__).with_name("bfcl_packages.txt")
EXTRA = f"{PIP} 'evalkit[bfcl]'"
FROM_PYPI = vendor_command("bfcl", "--require-hashes", "-r", str(REQUIREMENTS))
HOW_TO = f"Type: {EXTRA}\nand: {FROM_PYPI}"

DIGEST = "9407fcf0326f11e06b0f9a705a7491562faaf29e81e1cacb05032203095d352a"
"""Over the names and sha256 of all that evalkit reads or runs of the wheel (see `digest`)."""
READ = (
    "__init__.py",
    "utils.py",
    "constants/*.py",
    "eval_checker/**/*.py",
    "model_handler/__init__.py",
    "model_handler/utils.py",
    "data/BFCL_v4_*.json",
    "data/possible_answer/*.json",
    "data/multi_turn_func_doc/*.json",
    "data/memory_prereq_conversation/*.json",
)

Entry = dict[str, Any]
Verdict = dict[str, Any]
CHECKED_AS = "evalkit"
"""The checkers look up by a model's name whether it may say `a_b` for `a.b`: here every name may."""
_HOOK = "\x00memory\x00"


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """What evalkit uses of the wheel."""

    added_functions_prompt: str
    """What the user says in the turn in which held-out functions appear."""
    _utils: ModuleType
    _handler: ModuleType
    _ast: ModuleType
    _agentic: ModuleType
    _enums: ModuleType
    _types: ModuleType

    def entries(self, category: str, *, language_hint: bool) -> list[Entry]:
        """All entries of a category, a memory category's conversations before its questions.

        With `language_hint`, descriptions of functions name the language, and those of Java and
        JavaScript have strings for parameters.
        """
        found: list[Entry] = self._utils.load_dataset_entry(
            category, include_prereq=True, include_language_specific_hint=language_hint
        )
        return found

    def answers(self, category: str) -> list[Any]:
        """The gold answers of a category's entries, conversations excepted, in their order."""
        return [entry["ground_truth"] for entry in self._utils.load_ground_truth_entry(category)]

    def tools(self, functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Descriptions of functions as the `tools` of a request."""
        style = self._enums.ModelStyle.OPENAI_COMPLETIONS
        mapping = self._types.GORILLA_TO_OPENAPI
        found: list[dict[str, Any]] = self._handler.convert_to_tool(functions, mapping, style)
        return found

    def with_memory_prompt(
        self, turns: list[list[dict[str, Any]]], category: str, scenario: str
    ) -> tuple[list[list[dict[str, Any]]], str]:
        """A conversation that begins with the assistant's role, and the place in it that stands for
        what is in memory by then."""
        empty = SimpleNamespace(_dump_core_memory_to_context=lambda: _HOOK)
        with_role: list[list[dict[str, Any]]] = self._handler.add_memory_instruction_system_prompt(
            turns, category, scenario, empty
        )
        return with_role, _HOOK

    def is_well_formed(self, decoded: Any) -> bool:
        """Whether it is a list of calls with arguments by name."""
        return bool(self._utils.is_function_calling_format_output(decoded))

    def is_no_call(self, decoded: Any) -> bool:
        """Whether what was decoded calls nothing."""
        return bool(self._utils.is_empty_output(decoded))

    def check_calls(
        self, functions: Sequence[Mapping[str, Any]], decoded: Any, gold: Any, category: str
    ) -> Verdict:
        """The verdict on one answer's calls; `functions` are the descriptions without any hint."""
        language = self._enums.Language
        of = {"simple_java": language.JAVA, "simple_javascript": language.JAVASCRIPT}
        verdict: Verdict = self._ast.ast_checker(
            functions, decoded, gold, of.get(category, language.PYTHON), category, CHECKED_AS
        )
        return verdict

    def check_text(self, text: Any, gold: Sequence[str]) -> Verdict:
        """Whether a final answer has one of the gold answers in it."""
        verdict: Verdict = self._agentic.agentic_checker(text, gold)
        return verdict


def package_folder(folder: str | None) -> Path:
    """The folder that holds the wheel's package: `folder`, or where evalkit has it installed.

    Raises DataError where there is none.
    """
    where = vendored_folder("bfcl") if folder is None else Path(folder).expanduser()
    if not (where / MODULE).is_dir():
        what = "bfcl-eval is not installed" if folder is None else "params.package_path"
        raise DataError(f"{what}: there is no package {MODULE} in {where}", hint=HOW_TO)
    return where


@cache
def load_package(folder: str | None = None) -> Package:
    """The package in `folder` (by default the installed one).

    Raises DataError, which says what to type, where it is missing, cannot be imported, or is not the
    release whose scores these are.
    """
    where = package_folder(folder)
    found = digest(where)
    if found != DIGEST:
        raise DataError(
            f"{where / MODULE} has checksum {found}, that of bfcl-eval {RELEASE} is {DIGEST}",
            hint=f"Other data and checkers give other scores. {HOW_TO}",
        )
    try:
        return _import_alone(where)
    except ImportError as error:
        raise DataError(f"bfcl-eval in {where} cannot be imported: {error}", hint=HOW_TO) from error


def digest(where: Path) -> str:
    """sha256 over the sorted lines `<file> <its sha256>` of all files that are read."""
    root = where / MODULE
    names = sorted({path.relative_to(root).as_posix() for each in READ for path in root.glob(each)})
    whole = hashlib.sha256()
    try:
        for name in names:
            content = (root / name).read_bytes()
            whole.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    except OSError as error:
        raise DataError(f"{root} cannot be read: {error.strerror or error}", hint=HOW_TO) from error
    return whole.hexdigest()


def _import_alone(where: Path) -> Package:
    """The package in a folder, with no module of its name left behind."""
    stand_ins = dict(_stand_ins())
    others = _take_modules(MODULE, *stand_ins)
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(where))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="evalkit-bfcl-") as made,  # it makes folders there
            with_environment({"BFCL_PROJECT_ROOT": made}),
        ):
            return _package(lambda name: import_module(f"{MODULE}.{name}"))
    finally:
        sys.path.remove(str(where))
        _take_modules(MODULE, *stand_ins)
        sys.modules.update(others)


def _package(module: Callable[[str], ModuleType]) -> Package:
    prompts: Any = module("constants.default_prompts")
    return Package(
        added_functions_prompt=prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC,
        _utils=module("utils"),
        _handler=module("model_handler.utils"),
        _ast=module("eval_checker.ast_eval.ast_checker"),
        _agentic=module("eval_checker.agentic_eval.agentic_checker"),
        _enums=module("constants.enums"),
        _types=module("constants.type_mappings"),
    )


def _stand_ins() -> Iterator[tuple[str, ModuleType]]:
    """Modules that are imported and never used, or used for one fact about every model."""
    every = SimpleNamespace(underscore_to_dot=True)
    unused = {
        f"{MODULE}.model_handler.parser.java_parser": ("parse_java_function_call",),
        f"{MODULE}.model_handler.parser.js_parser": ("parse_javascript_function_call",),
        f"{MODULE}.model_handler.parser.json_parser": ("parse_json_function_call",),
        f"{MODULE}.model_handler.parser.xml_parser": (
            "parse_concise_xml_function_call",
            "parse_verbose_xml_function_call",
        ),
        "tenacity": (
            "retry",
            "retry_if_exception_message",
            "retry_if_exception_type",
            "wait_random_exponential",
        ),
    }
    yield _module(
        f"{MODULE}.constants.model_config",
        {"MODEL_CONFIG_MAPPING": defaultdict(lambda: every)},
    )
    for name, functions in unused.items():
        yield _module(name, dict.fromkeys(functions, _unused))


def _module(name: str, content: Mapping[str, Any]) -> tuple[str, ModuleType]:
    module = ModuleType(name)
    module.__dict__.update(content)
    return name, module


def _unused(*_args: Any, **_options: Any) -> Any:
    """A decorator that does nothing, and a parser that says who needs it after all."""
    return lambda function: function


def _take_modules(*names: str) -> dict[str, ModuleType]:
    """Takes modules, and those inside them, out of `sys.modules`."""
    found = [key for key in sys.modules if any(key == n or key.startswith(f"{n}.") for n in names)]
    return {key: sys.modules.pop(key) for key in found}
