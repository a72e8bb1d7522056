"""The figures about promises as sentences, for the status and the export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sync.review.nouns import by_hand, plural

__all__ = ["promise_lines"]


def promise_lines(review: Mapping[str, Any], noun: str = "mask") -> list[str]:
    """What may be said about the masks of a round: how many are right, how many objects are found.

    ``review`` are the figures of the review step. Figures that a policy or an earlier version did not give
    are left out. ``noun`` is what one instance is called, see ``nouns``.
    """
    return [
        *_right(review.get("promise"), review.get("labels") or [], noun),
        *_found(review.get("found")),
        *_forecast(review.get("forecast"), noun),
    ]


def _right(promise: Mapping[str, Any] | None, labels: list[Mapping[str, Any]], noun: str) -> list[str]:
    if not promise:
        return []
    if not promise["holds"] or not promise["accepted_unseen"]:
        why = "the audit took the certificate back" if promise["holds"] is False else "no certificate yet"
        return [f"no {noun} is accepted without a look at it ({why}; promised: {_share(promise['purity'])})"]
    lines = [
        f"at least {_share(promise['purity'])} of the {plural(promise['accepted_unseen'], noun)} nobody "
        f"looked at are right (certificate {promise['certificate']}, {_share(1 - promise['delta'])} sure)"
    ]
    return lines + [
        f"{row['label']}: an estimated {row['lower']:.0%} to {row['upper']:.0%} are right "
        f"({row['asked']} answers)"
        for row in labels
    ]


def _found(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    sure = f"{_share(1 - found['delta'])} sure"
    lines = [
        f"at least {_down(found['lower'])} of the objects are found "
        f"(from {found['pictures']} fully drawn pictures, {sure})"
    ]
    if len(found["labels"]) > 1:
        lines += [
            f"{row['label']}: at least {_down(row['lower'])} found ({row['objects']} drawn, {sure})"
            for row in found["labels"]
        ]
    promised = found["promised"]
    if promised is not None and found["lower"] < promised:
        lines.append(
            f"promised {_share(promised)} found, shown {_down(found['lower'])}: another "
            f"{_time(found['drawing_minutes'])} of drawing are expected to close the gap"
        )
    return lines


def _forecast(forecast: Mapping[str, Any] | None, noun: str) -> list[str]:
    if not forecast or not forecast["questions"] or not forecast["masks"]:
        return []
    return [
        f"another {_time(forecast['minutes'])} of answers are expected to finish "
        f"{plural(forecast['masks'], noun)}, {by_hand(noun)} them takes {_time(forecast['drawing_minutes'])}"
    ]


def _down(share: float) -> str:
    """Whole per cent, never more than the bound says."""
    return f"{int(share * 100 + 1e-9)}%"


def _share(value: float) -> str:
    """A share that somebody chose, as it was chosen."""
    return f"{value * 100:.4g}%"


def _time(minutes: float) -> str:
    if minutes >= 90:
        return f"{minutes / 60:.1f} hours"
    return "1 minute" if round(minutes) <= 1 else f"{round(minutes)} minutes"
