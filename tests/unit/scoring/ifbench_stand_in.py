"""A self-made package with the import name and the shape of IFBench's checkers, to load by its folder."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REGISTRY = '''\
import os
import random
from spacy.cli import download
import nltk
import ifbench.words as words

"\\d"  # an escape that Python warns of

download("en_core_web_sm")
assert nltk.download("punkt_tab", quiet=True) is True
os.environ["IFBENCH_WAS_HERE"] = "1"
nltk.data.path.insert(0, "ifbench-was-here")


class Says:
    """The response has the word; a drawn one where the row names none."""

    def __init__(self, instruction_id):
        self.id = instruction_id

    def build_description(self, *, word=None):
        self.word = word or random.choice(words.WORDS)

    def get_instruction_args(self):
        return {"word": self.word}

    def check_following(self, value):
        nltk.download("stopwords")
        return self.word in value


INSTRUCTION_DICT = {"says": Says}
'''


def write_stand_in(
    folder: Path, words: str = "['ox', 'hen', 'cat', 'dog', 'emu']"
) -> dict[str, str]:
    """Writes the package `ifbench` into `folder`; returns the sha256 of its modules."""
    files = {
        "__init__.py": "",
        "words.py": f"WORDS = {words}\n",
        "instructions_registry.py": REGISTRY,
    }
    (folder / "ifbench").mkdir(parents=True)
    for name, text in files.items():
        (folder / "ifbench" / name).write_text(text)
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


def write_tagger(folder: Path) -> None:
    """Writes a tagger in NLTK's format into `folder`: "Run" is a verb, all else is a noun."""
    name = "averaged_perceptron_tagger_eng"
    where = folder / "taggers" / name
    where.mkdir(parents=True)
    parts = {"weights": "{}", "tagdict": '{"Run": "VB"}', "classes": '["NN"]'}
    for part, text in parts.items():
        (where / f"{name}.{part}.json").write_text(text)
