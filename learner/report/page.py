"""The page itself: sections and blocks of trajectories into one HTML file that needs nothing else.

Flows in: sections (sections.py, diagnosis.py), an index and blocks (pack.py). Flows out: HTML. The template escapes
whatever it is given; script and style stand in the page and are the only ones that its Content-Security-Policy, which
names their digests, lets run. Nothing is fetched: `default-src 'none'`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from learner.report.pack import packed
from learner.report.sections import Section, Tile

SCRIPTS = ("report.js", "highlight.js", "transcript.js", "viewer.js")
STYLE, TEMPLATE = "report.css", "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the template is given."""

    title: str
    made: str  # when
    lead: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    notes: Sequence[str]  # about the trajectories: the sample, what could not be read
    config: Mapping[str, Mapping[str, Any]]
    index: Mapping[str, Any]
    blocks: Sequence[str]
    facts: Mapping[str, Any]  # for the viewer: the version that ratios are against


def render(page: Page) -> str:
    """The HTML."""
    import jinja2  # noqa: PLC0415 - `--help` does without it

    folder = files("learner.report")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (folder / STYLE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'"
    template = environment.from_string((folder / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        page=page,
        policy=policy,
        script=Markup(script),  # noqa: S704 - ours
        style=Markup(style),  # noqa: S704 - ours
        index=packed({**page.index, "facts": page.facts}),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
