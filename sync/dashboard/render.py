"""Render the dashboard's pages and the report from typed figures: jinja2, escaping on, no network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from sync.dashboard import wording
from sync.dashboard.charts import learning_chart, masks_chart, pool_bar
from sync.dashboard.figures import ProjectFigures
from sync.dashboard.live import LiveState
from sync.review.nouns import plural, plural_noun
from sync.rounds.few_pictures import FEW_PICTURES, few_pictures_text

__all__ = ["page_file", "render_page", "render_report", "status_line"]


def render_report(
    projects: Sequence[tuple[ProjectFigures, LiveState]], *, now: datetime | None = None
) -> str:
    """One page with everything inside: styles and charts, no script, nothing loaded from anywhere."""
    title = f"Report: {projects[0][0].title}" if len(projects) == 1 else "Report of all projects"
    made_at = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M")
    style = Markup(page_file("dashboard.css"))  # our own file, no data
    return render_page("report.html.j2", title=title, projects=projects, made_at=made_at, style=style)


def render_page(template: str, **values: Any) -> str:
    """One of the templates of this package."""
    return _environment().get_template(template).render(**values)


def page_file(name: str) -> str:
    """The text of a style sheet or script of this package."""
    return (files("sync.dashboard") / name).read_text()


def status_line(live: LiveState) -> str:
    """One sentence about what happens, or why nothing does."""
    wanted = "; ".join(live.wanted)
    if live.paused == "all":
        text = "Paused: nothing is trained, asked or shown"
    elif live.interrupted:
        text = "The worker stopped in the middle of a step; the next one goes on from there"
    elif live.step:
        text = "A worker is busy"
    elif live.at_work:
        text = "A worker is looking"
    elif any(step.state == "asking" for step in live.steps):
        text = "Waiting for answers and finished tasks"
    else:
        text = "Waiting for finished tasks"
    if live.paused == "asking":
        text += ". Asking is paused"
    return f"{text}. Next: {wanted}." if wanted else f"{text}."


def is_web(url: str) -> bool:
    """Whether an address may become a link: an ordinary web address, no script."""
    return urlsplit(url).scheme in ("http", "https")


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sync.dashboard", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "about": wording.about,
        "duration": wording.duration,
        "is_web": is_web,
        "learning_chart": learning_chart,
        "least_test": FEW_PICTURES,
        "masks_chart": masks_chart,
        "meanings": wording.MEANINGS,
        "moment": wording.moment,
        "percent": wording.percent,
        "plural": plural,
        "plural_noun": plural_noun,
        "pool_bar": pool_bar,
        "ranged": wording.ranged,
        "signed": wording.signed,
        "status_line": status_line,
        "step_names": wording.STEP_NAMES,
        "too_few": few_pictures_text,
    }
    return made
