"""What a look says about the promise, and about the time that is still to be spent."""

from __future__ import annotations

from typing import Any

import numpy as np

from clustering.answers import AUDIT, Action, Decisions, Forecast
from clustering.search.certified import LABEL_ESTIMATE, Certified
from sync.review.decide import Outcome, Plan
from sync.review.nouns import by_hand, plural

__all__ = ["audit_figures", "forecast_figures", "forecast_text", "label_figures", "promise_figures"]


def promise_figures(plan: Plan) -> dict[str, Any] | None:
    """The promise of the round's certificate, and how far it is; None where the policy promises nothing.

    ``accepted_unseen`` masks were accepted though nobody saw them, ``verified`` ones because somebody did.
    ``holds``: true once the accepted masks are certified, false when the audit took the certificate back,
    null before.
    """
    outcome = plan.outcome
    policy, done = outcome.policy, outcome.propagation
    if not isinstance(policy, Certified):
        return None
    accepted = done.label > 0
    unseen = int((accepted & (done.decision >= 0)).sum())
    audits = audit_figures(outcome)
    return {
        "purity": policy.purity,
        "delta": policy.delta,
        "certificate": plan.log.certificate.number,
        "accepted_unseen": unseen,
        "verified": int(accepted.sum()) - unseen,
        "audit": audits[-1] if audits else None,
        "holds": True if unseen else False if audits else None,
        "gold": None if policy.gold is None else list(policy.gold),
    }


def forecast_figures(forecast: Forecast | None) -> dict[str, Any] | None:
    """What further answers are expected to bring, in minutes; None where the policy cannot tell."""
    if forecast is None:
        return None
    return {
        "questions": forecast.questions,
        "minutes": round(forecast.answer_seconds / 60.0, 1),
        "masks": forecast.masks,
        "drawing_minutes": round(forecast.drawing_seconds / 60.0, 1),
    }


def forecast_text(forecast: Forecast | None, noun: str = "mask") -> str:
    """The same as a sentence; empty where nothing more is expected."""
    if forecast is None or not forecast.questions or not forecast.masks:
        return ""
    return (
        f"another {_minutes(forecast.answer_seconds)} of answers are expected to finish "
        f"{plural(forecast.masks, noun)}; {by_hand(noun)} them takes {_minutes(forecast.drawing_seconds)}"
    )


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60.0))
    return f"{minutes} minute{'s' if minutes != 1 else ''}"


def audit_figures(outcome: Outcome) -> list[dict[str, Any]]:
    """The final audits: how many accepted masks were looked at, and the interval of their purity."""
    return _rows(outcome, AUDIT)


def label_figures(outcome: Outcome) -> list[dict[str, Any]]:
    """Estimates of the purity of each label, beside the promise over all of them."""
    return _rows(outcome, LABEL_ESTIMATE)


def _rows(outcome: Outcome, test: str) -> list[dict[str, Any]]:
    decisions: Decisions = outcome.step.decisions
    return [
        {
            "label": outcome.pools[int(decisions.label[i])].label if decisions.label[i] >= 0 else "",
            "asked": int(decisions.asked[i]),
            "good": int(decisions.yes[i]),
            "lower": round(float(decisions.lower[i]), 4),
            "upper": round(float(decisions.upper[i]), 4),
            "confidence": float(decisions.confidence[i]),
        }
        for i in np.flatnonzero(decisions.action == Action.ACCEPT).tolist()
        if decisions.test[i] == test
    ]
