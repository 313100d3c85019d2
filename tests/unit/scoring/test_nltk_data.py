"""NLTK offline: nothing downloads, pinned data comes first, and nothing stays changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nltk
import pytest

from evalkit.scoring.nltk_data import (
    PINNED,
    PUNKT,
    STOPWORDS,
    TAGGER,
    download_command,
    missing_resources,
    offline,
)
from tests.unit.scoring.ifbench_stand_in import write_tagger

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pinned data, whatever this machine has."""
    monkeypatch.setattr(nltk.data, "path", [])


def test_pinned_data_is_there_without_the_tagger() -> None:
    """The tokenizer and the stop words come with the pinned package, the tagger does not."""
    assert missing_resources([PUNKT, STOPWORDS, TAGGER]) == [TAGGER]


def test_downloads_do_nothing_and_all_is_restored() -> None:
    """Inside, `nltk.download` says it worked; afterwards NLTK is as it was, also after an error."""
    download, seen = nltk.download, []

    def use() -> None:
        with offline() as same:
            seen.append((same is nltk, nltk.download("punkt_tab", quiet=True), nltk.data.path[:]))
            raise KeyError

    with pytest.raises(KeyError):
        use()
    assert seen == [(True, True, [str(PINNED)])]
    assert nltk.download is download
    assert nltk.data.path == []


def test_own_folders_of_nltk_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tagger is found where NLTK's downloader puts it."""
    write_tagger(tmp_path)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert missing_resources([TAGGER]) == []


def test_download_command_names_packages() -> None:
    """NLTK's downloader wants names without folders."""
    assert download_command([PUNKT, TAGGER]).endswith(
        " -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng"
    )
