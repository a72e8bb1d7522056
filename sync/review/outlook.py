"""Outlook: what is left to answer in this round, in the description of the review projects.

People see it on the project's card in Label Studio. The figures are coarse, and the text is sent only when
it changed, so it costs few requests.
"""

from __future__ import annotations

import logging

from clustering.answers import Forecast
from ml_backend.errors import StudioError
from sync.review.answers import review_owner, review_project_of
from sync.review.question import FORMS
from sync.review.review_project import describe
from sync.rounds.progress import Memo
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.studio.protocol import StudioClient

__all__ = ["outlook_text", "tell_outlook"]

_log = logging.getLogger(__name__)
_STEPS_MIN = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90)


def outlook_text(forecast: Forecast | None) -> str:
    """One sentence for those who answer; empty where the policy cannot tell."""
    if forecast is None:
        return ""
    if not forecast.questions:
        return "Nothing is left to answer in this round."
    return (
        f"About {_about(forecast.answer_seconds)} of answers are left in this round. "
        f"They are expected to spare {_about(forecast.drawing_seconds)} of drawing."
    )


def _about(seconds: float) -> str:
    """A time that changes seldom: the next larger of a few minutes, or whole hours."""
    minutes = seconds / 60.0
    for step in _STEPS_MIN:
        if minutes <= step:
            return f"{step} minute{'s' if step > 1 else ''}"
    return f"{round(minutes / 60.0)} hours"


def tell_outlook(
    db: ProjectStore,
    review_studio: StudioClient,
    settings: Settings,
    memo: Memo,
    forecast: Forecast | None,
) -> bool:
    """Write the outlook into the descriptions of the review projects; True when something was sent.

    What this worker sent last is kept in the memo, so a new worker sends it once more.
    """
    text = outlook_text(forecast)
    owner = review_owner(db, settings)
    sent = False
    for form in FORMS:
        review_id = review_project_of(db, form)
        name = ("outlook", db.id, form)
        if not text or review_id is None or memo.get(name) == (review_id, text):
            continue
        try:
            review_studio.set_description(review_id, describe(owner, form, text))
        except StudioError as error:
            _log.warning("review project %s keeps its old outlook: %s", review_id, error)
            continue
        memo[name] = (review_id, text)
        sent = True
    return sent
