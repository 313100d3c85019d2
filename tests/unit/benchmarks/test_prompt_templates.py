"""Prompt templates: shipped bytes, users' files, and errors that say what to write."""

import hashlib
from pathlib import Path

import pytest
import yaml

from evalkit.benchmarks import prompt_templates
from evalkit.benchmarks.prompt_templates import PromptTemplate, load_prompt, prompt_names
from evalkit.errors import DataError, RecipeError
from tests.unit.vectors import SHARED, load_rows

SHIPPED = Path(prompt_templates.__file__).parent / "prompts"
CARD_PROMPTS = {"eval/aai/mcq-10choices-boxed", "eval/aai/mcq-4choices", "gpt-oss/math"}


LICENCES = {"judge/hle-official": "MIT"}
RENAMED = {"judge/hle-official": "hle-official-judge"}


def test_index_and_folder_agree() -> None:
    """Every shipped file is in the index once, with its checksum, origin and licence."""
    entries = yaml.safe_load((SHIPPED / "index.yaml").read_text())
    assert sorted(e["file"] for e in entries) == sorted(p.name for p in SHIPPED.glob("*.txt"))
    for entry in entries:
        content = (SHIPPED / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["name"]
        assert not content.endswith(b"\n"), entry["name"]
        assert entry["licence"] == LICENCES.get(entry["name"], "Apache-2.0")
        assert load_prompt(entry["name"]).fields == set(entry["fields"])


def test_shipped_prompts_are_the_original_bytes() -> None:
    """The files equal those of the original harness, by its own index."""
    originals = {
        entry["name"] + suffix: entry[role]["sha256"]
        for entry in yaml.safe_load((SHARED / "prompts" / "index.yaml").read_text())
        for role, suffix in (("user", ""), ("system", "-system"))
        if role in entry
    }
    originals |= {ours: originals[theirs] for ours, theirs in RENAMED.items()}
    assert set(prompt_names()) >= CARD_PROMPTS
    assert {n: load_prompt(n).sha256 for n in prompt_names()} == {
        n: originals[n] for n in prompt_names()
    }


def test_render_fills_in_once_and_verbatim() -> None:
    """Braces in a value stay as they are, and literal braces of the template lose one pair."""
    text = load_prompt("gpt-oss/math").render(problem="{x} {{y}} \\boxed{1}")
    assert text == (
        "{x} {{y}} \\boxed{1}\n"
        "Please reason step by step, and put your final answer within \\boxed{}."
    )


def test_values_nobody_asks_for_are_ignored() -> None:
    """A benchmark may offer more than a template shows."""
    assert load_prompt("gpt-oss/math").render(problem="p", examples="e").startswith("p\n")
    assert "e1p" in load_prompt("generic/math").render(problem="p", examples="e1")


def test_gpqa_vector_renders() -> None:
    """The multiple-choice template gives the original's user message, byte by byte."""
    (row,) = [r for r in load_rows("gpqa_shuffle") if r.id == "gpqa-prompt-synthetic"]
    text = load_prompt(row.input["prompt"]).render(problem=row.input["problem"])
    assert text == row.expected["user"]
    assert hashlib.sha256(text.encode()).hexdigest() == row.expected["sha256_of_user"]


def test_a_missing_value_is_named() -> None:
    """A gap says which field, of which prompt, and what is there instead."""
    with pytest.raises(RecipeError, match=r"generic/math: no value for \{examples\}") as caught:
        load_prompt("generic/math").render(problem="p")
    assert "{problem}" in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A mistyped name is answered with all right ones."""
    with pytest.raises(RecipeError, match="neither shipped nor a file") as caught:
        load_prompt("gpt-oss/maths")
    assert all(name in str(caught.value) for name in prompt_names())


def test_a_users_file(tmp_path: Path) -> None:
    """A path is read byte by byte: line ends and a last newline are part of the prompt."""
    path = tmp_path / "my prompt.txt"
    path.write_bytes("Löse:\r\n{problem}\n".encode())
    template = load_prompt(str(path))
    assert template.render(problem="1+1") == "Löse:\r\n1+1\n"
    assert template.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert template.name == str(path)


def test_a_template_must_show_the_problem() -> None:
    """A file without its field would ask every sample the same: refused."""
    template = PromptTemplate.of("mine", "Solve this.")
    with pytest.raises(RecipeError, match=r"mine: the template never shows \{problem\}"):
        template.require("problem")


@pytest.mark.parametrize(
    "text", ["\\boxed{}", "{problem", "{0}", "{problem.name}", "a } b", "{a b}"]
)
def test_stray_braces_are_explained(text: str) -> None:
    """Braces that are no field are refused with the way to write them."""
    with pytest.raises(RecipeError, match="literal brace twice"):
        PromptTemplate.of("mine", text)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused by name."""
    path = tmp_path / "prompt.txt"
    path.write_bytes(b"\xff\xfe{problem}")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_prompt(str(path))


def test_an_altered_shipped_file_is_refused() -> None:
    """A shipped template with another checksum is not silently used."""
    entry = {"file": "gpt-oss__math.txt", "sha256": "0" * 64}
    with pytest.raises(DataError, match="install it again"):
        prompt_templates._load_shipped("gpt-oss/math", entry)
