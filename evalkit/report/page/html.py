"""The page: the template filled, with the hashes of its own style and script as its policy.

jinja2 escapes all that comes from a run, and refuses a name that is not there. The samples come as base64
between the two halves of the template, for they are most of the bytes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from evalkit.report.page.context import page_view
from evalkit.report.page.sources import run_labels
from evalkit.report.page.units import pack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from evalkit.report.page.sources import RunReport
    from evalkit.report.page.units import Group

SLOT = "<!-- samples -->"
"""Where in the template the samples go; no run can write this, for its `<` is escaped."""


def render_html(runs: Sequence[RunReport], title: str, groups: Sequence[Group]) -> bytes:
    """The whole page as UTF-8."""
    style, script = _asset("page.css"), _asset("page.js")
    page = _template().render(
        page=page_view(runs, title, groups),
        style=Markup(style),
        script=Markup(script),
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )
    before, after = page.split(SLOT)
    return "".join([before, *_data(runs, groups), after]).encode()


def _data(runs: Sequence[RunReport], groups: Sequence[Group]) -> list[str]:
    """The index and the chunks, each in an element of its own."""
    indices: list[dict[str, Any]] = []
    parts: list[str] = []
    for group in groups:
        indices.append(group.index(len(parts)))
        parts += [_element(f"chunk-{len(parts) + n}", c) for n, c in enumerate(group.chunks)]
    index = {"runs": run_labels(runs), "groups": indices}
    return [_element("index", pack(orjson.dumps(index))), *parts]


def _element(name: str, content: str) -> str:
    return f'<script type="text/plain" id="{name}">{content}</script>\n'


@cache
def _asset(name: str) -> str:
    return (resources.files("evalkit.report.page") / "assets" / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("page.html.j2"))


def _csp_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
