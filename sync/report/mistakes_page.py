"""One HTML file with the likely mistakes: a card each, with picture, reason and a link to the task."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from sqlalchemy import select

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.mistakes import Finding, MistakeTable
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadImage
from ml_backend.images.store import ImageStore
from ml_backend.instances import Rle
from sync.report.mistake_pictures import finding_picture, pair_picture
from sync.rounds.task_queries import effective_annotation, task_images
from sync.store.project_store import ProjectStore
from sync.store.tables import AnnotationRecord

__all__ = ["TITLES", "render_mistakes_page", "write_mistakes_page"]

TITLES: Final[Mapping[str, str]] = {
    "overlooked": "Overlooked",
    "placed": "Badly placed",
    "swapped": "Swapped label",
    "class": "Wrong class",
    "area": "Area differs",
    "duplicate": "Same picture twice",
    "near duplicate": "Nearly the same picture",
    "leak": "On both sides of the test split",
}
"""Kinds of findings as people read them."""


def write_mistakes_page(
    out: Path,
    table: MistakeTable,
    db: ProjectStore,
    paths: ProjectPaths,
    images: ImageStore,
    studio_url: str,
    *,
    top: int = 50,
) -> None:
    """Write the page of the ``top`` findings. Pictures that cannot be read are left out of their cards."""
    findings = table.findings[:top]
    addresses = task_images(db)
    drawn = _drawn(db, sorted({finding.task_id for finding in findings}))

    def picture(finding: Finding) -> bytes:
        def pixels(task: int) -> Any:
            return images.pixels(images.get(addresses[task], task_id=task, project_id=paths.project_id))

        try:
            if finding.other_task >= 0:
                return pair_picture(pixels(finding.task_id), pixels(finding.other_task))
            return finding_picture(pixels(finding.task_id), drawn.get(finding.task_id, ()), finding)
        except (BadImage, KeyError):
            return b""

    page = render_mistakes_page(
        db.title,
        table,
        [(finding, picture(finding)) for finding in findings],
        link=f"{studio_url.rstrip('/')}/projects/{db.id}/data?task=",
    )
    write_atomic(out, page.encode())


def render_mistakes_page(
    title: str, table: MistakeTable, cards: Sequence[tuple[Finding, bytes]], *, link: str
) -> str:
    """The page as HTML that needs nothing else. Any text may come from people; it stays text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sync.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    about = table.about
    return environment.get_template("mistakes_page.html").render(
        title=title,
        about=about,
        judged=sum(about["judged"].values()),
        total=len(table),
        tasks=len(table.tasks()),
        cards=[
            {
                "kind": TITLES[finding.kind],
                "score": f"{finding.score:.2f}",
                "task": finding.task_id,
                "reason": finding.reason,
                "judge": finding.judged_by,
                "picture": base64.b64encode(jpeg).decode(),
                "link": f"{link}{finding.task_id}",
            }
            for finding, jpeg in cards
        ],
    )


def _drawn(db: ProjectStore, tasks: Sequence[int]) -> dict[int, list[Rle]]:
    """Masks that people drew on the tasks."""
    query = select(AnnotationRecord).where(
        AnnotationRecord.project_id == db.id, AnnotationRecord.task_id.in_(tasks)
    )
    by_task: dict[int, list[AnnotationRecord]] = {}
    with db.read() as session:
        for row in session.scalars(query):
            by_task.setdefault(row.task_id, []).append(row)
    found = {}
    for task, rows in by_task.items():
        speaks = effective_annotation(rows)
        if speaks is not None:
            found[task] = [region["rle"] for region in speaks.regions if region["rle"] is not None]
    return found
