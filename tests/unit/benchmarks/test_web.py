"""Files from the web: pinned by checksum, cached, and refused when altered."""

from __future__ import annotations

import hashlib
import http.server
import threading
from typing import TYPE_CHECKING

import pytest

from evalkit.benchmarks.data import DataAccess, DataSource
from evalkit.benchmarks.web import fetch
from evalkit.errors import DataError
from evalkit.recipe.schema import DataOverride

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b'{"id": "a"}\n'
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Site(http.server.ThreadingHTTPServer):
    """Serves one file and counts how often."""

    served = 0


class Handler(http.server.BaseHTTPRequestHandler):
    """The file at /rows.jsonl, 404 elsewhere."""

    def do_GET(self) -> None:
        """Answer one request."""
        site = self.server
        assert isinstance(site, Site)
        site.served += 1
        found = self.path == "/rows.jsonl"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(CONTENT if found else b"nothing here")

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """A web site on this machine, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Site(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(site: Site, name: str = "rows.jsonl") -> str:
    """URL of a file there."""
    return f"http://127.0.0.1:{site.server_address[1]}/{name}"


def test_a_file_is_fetched_once(site: Site) -> None:
    """The second time it comes from the cache."""
    first = fetch(address(site), "rows.jsonl", [DIGEST], "t")
    second = fetch(address(site), "rows.jsonl", [DIGEST], "t")
    assert first == second
    assert first.read_bytes() == CONTENT
    assert site.served == 1


def test_a_damaged_cache_is_fetched_again(site: Site) -> None:
    """What lies in the cache is checked before it is used."""
    fetch(address(site), "rows.jsonl", [DIGEST], "t").write_bytes(b"damaged")
    assert fetch(address(site), "rows.jsonl", [DIGEST], "t").read_bytes() == CONTENT
    assert site.served == 2


def test_other_bytes_are_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    """The error names both checksums and the task's key."""
    with pytest.raises(DataError) as caught:
        fetch(address(site), "rows.jsonl", ["0" * 64], "t")
    assert f"has sha256 {DIGEST}, expected {'0' * 64}" in caught.value.message
    assert "tasks.t.data.path" in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.jsonl"))


def test_a_missing_file_says_what_to_do(site: Site) -> None:
    """Status 404 becomes a DataError with the address and a way out."""
    with pytest.raises(DataError, match="cannot be fetched: HTTP Error 404") as caught:
        fetch(address(site, "other"), "rows.jsonl", [DIGEST], "t")
    assert "set tasks.t.data.path to a local copy" in str(caught.value)


def test_rows_come_from_a_pinned_address(site: Site, tmp_path: Path) -> None:
    """A benchmark whose source is an address needs nothing from the recipe."""
    source = DataSource(url=address(site), file="rows.jsonl", known={DIGEST: "the file"})
    rows = DataAccess("t", DataOverride(), tmp_path).rows(source, "MIT")
    assert rows.rows == [{"id": "a"}]
    assert rows.provenance.source == address(site)
    assert rows.provenance.sha256 == DIGEST
    assert not rows.provenance.altered
