"""Words and numbers of the page: how figures are written, and what each of them means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sync.dashboard.figures import Range
from sync.rounds.few_pictures import FEW_PICTURES

__all__ = ["MEANINGS", "STEP_NAMES", "about", "duration", "moment", "percent", "ranged", "signed"]

STEP_NAMES: Final = {
    "pull": "reads labels",
    "train": "train",
    "infer": "find masks",
    "cluster": "group",
    "review": "ask",
    "push": "show",
    "clicks": "prepares clicks",
    "order": "orders tasks",
    "pause": "is paused",
}
"""Steps of a round as people see them."""

MEANINGS: Final = {
    "live": "A round trains a model on everything finished, lets it look at all open pictures, groups "
    "what it found, asks people about it, and shows the result in Label Studio. The time left "
    "is an estimate: from the pace of the present step, and from how long earlier rounds took.",
    "curve": "How good each model version is on the test pictures: finished tasks that no version is "
    "trained on. The vertical lines are 95 % intervals: with other test pictures of the same "
    "kind the figure would lie there 19 times out of 20. Two versions whose intervals overlap "
    f"much are not proven to differ. With fewer than {FEW_PICTURES} test pictures no figure is shown.",
    "masks": "Drawn: made by a person in Label Studio. Verified: found by the model, and a person said "
    "yes to it. Propagated: found by the model and accepted without a look, because enough of "
    "its group was seen. Once a person finishes a task, its masks count as drawn.",
    "questions": "A question shows one mask and asks whether it is good. Masks per question: accepted masks "
    "by answered questions; above 1, answers reach further than the masks that were looked at.",
    "hours": "Spent: the time for which tasks and questions were open, as Label Studio measured it, at "
    "most 30 minutes a task and 2 minutes an answer. Saved: what drawing the accepted masks by "
    "hand would have taken, less the time of the answers. The lower figure counts only as many "
    "propagated masks as are certainly good.",
    "pools": "The pool of a label is everything that the newest model found on unfinished pictures. "
    "Share right: how many of the propagated masks are good, as the certificate or the answers "
    "bound it.",
    "annotators": "Seconds per task: the median, with its 95 % interval. Model found: of the objects in the "
    "person's tasks, how many the shown prediction already had. Kept: of the predictions shown, "
    "how many the person left. Compared are the newest 50 tasks of each person that a model had "
    "seen before.",
    "workers": "People who answer questions. Gold questions have a known answer: yes to good and no to bad "
    "are measured on them, with 95 % intervals. Agreement: how often others say the same. "
    "Answers of suspended workers do not count.",
    "invites": "Links by which people answer on the review page, without an account in Label Studio. Answers "
    "are those of this person in this project, with all of their links, skips left out. A link that is "
    "withdrawn lets nobody in from that moment; answers that were given stay. A new one is made by "
    "groundswell invite create.",
    "experts": "Questions that used up their workers without a clear result. An expert's answer decides.",
    "versions": "Every training makes a version that never changes. One of them serves: its predictions are "
    "shown. An earlier one can be made to serve again.",
    "clusters": "Masks that look alike, as a tree: what was asked, accepted and rejected in each group.",
    "mistakes": "Finished tasks where a model that was not trained on them sees something else than "
    "people said, and pictures that are there twice. Most are worth a look, not all are wrong: "
    "open the task, mend it or leave it. n is the number of tasks that could be judged.",
    "troubles": "What failed, and what to do about it.",
}
"""What the figures of each section mean, in plain words."""


def percent(share: float | None) -> str:
    """Whole per cent, a digit more near the ends."""
    if share is None:
        return "–"
    value = 100.0 * share
    if 99 < value < 100:  # rounded down: 99.97 % is not all
        return f"{int(value * 10) / 10:.1f} %"
    return f"{value:.1f} %" if 0 < value < 1 else f"{value:.0f} %"


def ranged(found: Range | None, form: str = "number") -> str:
    """A figure with interval and n, e.g. ``0.71 (0.60–0.82, n=24)``."""
    if found is None:
        return "–"
    if form == "percent":
        return (
            f"{percent(found.value)} ({percent(found.low)[:-2]}–{percent(found.high)[:-2]} %, n={found.n:,})"
        )
    if form == "seconds":
        return f"{_s(found.value)} s ({_s(found.low)}–{_s(found.high)}, n={found.n:,})"
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f}, n={found.n:,})"


def _s(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"


def duration(seconds: float | None) -> str:
    """A time that people read: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "–"
    if abs(seconds) < 90:
        return f"{seconds:.0f} s"
    if abs(seconds) < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"


def signed(low: float, high: float) -> str:
    """A time between two bounds; below zero nothing was saved."""
    if duration(low) == duration(high):
        return duration(low)
    return f"{duration(low)} to {duration(high)}"


def about(seconds: float | None) -> str:
    """An estimate of what is left, no finer than it is known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {10 * round(seconds / 10)} s left"
    return f"about {duration(seconds)} left"


def moment(seconds: float) -> str:
    """A point of time in UTC; empty for 0."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}" if seconds else ""
