"""Render a preview: one page from plain values.

As a file it needs nothing else. On the dashboard style and script are files of their own, because a page
there may hold no script.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

__all__ = ["asset", "render_preview"]


def render_preview(
    data: Mapping[str, Any], *, css_url: str = "", js_url: str = "", back_url: str = "", anew_url: str = ""
) -> str:
    """The page of a preview (see ``preview_data.make_preview``).

    Without ``css_url`` and ``js_url`` style and script are inside. Any text in ``data`` may come from people;
    it reaches the page as text only.
    """
    inside = not (css_url and js_url)
    page = _environment().get_template("preview_page.html.j2")
    return page.render(
        data=data,
        css_url=css_url,
        js_url=js_url,
        back_url=back_url,
        anew_url=anew_url,
        css=Markup(asset("preview.css")) if inside else "",
        js=Markup(asset("preview.js")) if inside else "",
    )


def asset(name: str) -> str:
    """The style or script of the page: ``preview.css`` or ``preview.js``."""
    return resources.files("sync.report").joinpath(name).read_text("utf-8")


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sync.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    # the filter tojson writes "<" as \u003c, so that no label can end the script element
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return made
