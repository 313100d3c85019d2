"""The report in a real browser: 20,000 units, at the width of a phone and of a desk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from evalkit.report.page.write import make_page
from tests.unit.report.page_builder import make_report, with_units

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

UNITS = 20_000
# Done in the page, for a search may be over before somebody outside has seen it.
TYPE_ON = """([first, next]) => new Promise((done) => {
  const [query, found] = ["query", "found"].map((id) => document.getElementById(id));
  const type = (text) => {
    query.value = text;
    query.dispatchEvent(new Event("input"));
  };
  new MutationObserver((_, watch) => {
    if (!found.textContent.includes("searched")) return;
    watch.disconnect();
    type(next);
    done();
  }).observe(found, { childList: true, characterData: true, subtree: true });
  type(first);
})"""
LIMIT_MS = 120_000
WIDTHS = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: Debian's, or where that has none playwright's own; `make test` installs it."""
    program = shutil.which("chromium")
    with sync_playwright() as play:
        # Root has no sandbox of Chromium's; the page is our own.
        started = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a large run."""
    root = tmp_path_factory.mktemp("report")
    run = with_units(make_report(root / "run"), UNITS, letters=240)
    path = root / "report.html"
    path.write_bytes(make_page([run], "large run", max_mb=100).content)
    return path


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Page]:
    """The page, opened from disk. Whatever the console says, and whatever is fetched, is a failure."""
    width, height = WIDTHS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    opened.set_default_timeout(LIMIT_MS)
    expect.set_options(timeout=LIMIT_MS)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url))
    opened.goto(f"file://{report}")
    opened.wait_for_selector("html[data-ready=yes]")
    yield opened
    context.close()
    assert said == [f"file://{report}"]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def found(page: Page, text: str) -> None:
    """Wait until so many units are shown, and the search is over."""
    expect(page.locator("#found")).to_have_text(text)


def test_a_large_run_can_be_searched_and_read(page: Page) -> None:
    """Only rows in view exist; search, filters and keys lead to a unit; nothing breaks out of its text."""
    found(page, "20,000 of 20,000 units")
    assert overflow(page) <= 0
    assert page.locator(".row").count() < 40

    page.keyboard.press("/")
    page.keyboard.type("NEEDLE19999")
    found(page, "1 of 20,000 units")
    page.keyboard.press("Enter")
    expect(page.locator("#unit h3")).to_contain_text("s19999")
    expect(page.locator("#unit mark").first).to_have_text("needle19999")
    expect(page.locator(".row[aria-selected=true]")).to_contain_text("wrong s19999")

    page.fill("#query", "")
    found(page, "20,000 of 20,000 units")
    page.select_option("#by-outcome", "truncated")
    found(page, "1,000 of 20,000 units")
    page.select_option("#by-score", "right")
    found(page, "0 of 20,000 units")
    page.select_option("#by-outcome", "")
    found(page, "10,000 of 20,000 units")

    page.fill("#query", "window.pwned")
    found(page, "40 of 20,000 units")
    page.focus("#list")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("#unit h3")).to_contain_text("s00500")
    expect(page.locator("#unit")).to_contain_text("</script><script>window.pwned = 1</script>")
    expect(page.locator("#unit")).to_contain_text("<img src=x onerror='window.pwned = 1'>")
    assert page.evaluate("window.pwned === undefined")
    assert overflow(page) <= 0

    page.keyboard.press("End")
    expect(page.locator("#unit h3")).to_contain_text("s19500")
    page.keyboard.press("Enter")
    expect(page.locator("#unit")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_be_focused()
    for width in (600, 800, 1000):
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0, width


@pytest.mark.parametrize("page", ["desk"], indirect=True)
def test_a_search_is_given_up_for_the_next_one(page: Page) -> None:
    """Typing on while chunks are searched: what is shown in the end is the last word's."""
    found(page, "20,000 of 20,000 units")
    page.evaluate(TYPE_ON, ["contradiction", "needle123"])
    found(page, "111 of 20,000 units")


@pytest.mark.parametrize("page", ["desk"], indirect=True)
def test_all_is_there_on_paper(page: Page) -> None:
    """Folded parts are open when it is printed, and the browser of samples is not."""
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    expect(page.locator("#browser")).to_be_hidden()
    expect(page.get_by_text("The samples can be read in a browser.")).to_be_visible()
