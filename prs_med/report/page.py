"""A report as one HTML file that needs nothing else and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import prs_med
from prs_med.report.content import Page

_TEMPLATES = Path(__file__).parent / "templates"


def html_page(page: Page) -> str:
    """The whole report; texts are escaped, style and script are inside, addresses outside it are
    forbidden to the browser."""
    style, script = _source("page.css"), _source("page.js")
    return (
        _templates()
        .get_template("page.html")
        .render(
            page=page,
            style=style,
            script=script,
            policy=_policy(style, script),
            version=prs_med.__version__,
        )
    )


def _policy(style: Markup, script: Markup) -> str:
    """Nothing from anywhere, but pictures inside the page, its own style and its own script."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(source: Markup) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


@cache
def _source(name: str) -> Markup:
    """A file of our own that goes into the page as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
