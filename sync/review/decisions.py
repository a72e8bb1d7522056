"""Decisions: store what the policy decided, as rows of the store and as verdicts on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import delete

from clustering.answers import Action
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import Verdict, VerdictTable, write_verdicts
from sync.review.decide import LabelOutcome
from sync.store.project_store import ProjectStore
from sync.store.tables import DecisionRecord, RoundRecord

__all__ = ["store_decisions"]


def store_decisions(
    db: ProjectStore, paths: ProjectPaths, record: RoundRecord, outcomes: Sequence[LabelOutcome]
) -> VerdictTable:
    """Replace decisions and verdicts of the round by those of this look."""
    rows = [row for outcome in outcomes for row in _verdict_rows(outcome)]
    verdicts = write_verdicts(paths.round(record.number), rows, guard=db.write)
    with db.write() as session:
        session.execute(
            delete(DecisionRecord).where(
                DecisionRecord.project_id == db.id, DecisionRecord.round == record.number
            )
        )
        for outcome in outcomes:
            session.add_all(_decision_rows(db.id, record.number, outcome))
    return verdicts


def _verdict_rows(outcome: LabelOutcome) -> list[Verdict]:
    done, decisions = outcome.propagation, outcome.propagation.decisions
    rows = []
    for item in np.flatnonzero(done.label).tolist():
        at = int(done.decision[item])
        by_decision = at >= 0
        rows.append(
            Verdict(
                key=str(outcome.pool.table.key[item]),
                label=outcome.pool.label,
                verdict=int(done.label[item]),
                verified=bool(done.verified[item]),
                decision=at,
                cluster=int(decisions.cluster[at]) if by_decision else -1,
                lower=float(decisions.lower[at]) if by_decision else float("nan"),
                upper=float(decisions.upper[at]) if by_decision else float("nan"),
                confidence=float(decisions.confidence[at]) if by_decision else float("nan"),
                test=decisions.test[at] if by_decision else "verdict",
            )
        )
    return rows


def _decision_rows(project_id: int, number: int, outcome: LabelOutcome) -> list[DecisionRecord]:
    decisions, tree = outcome.step.decisions, outcome.pool.tree
    members = np.bincount(outcome.step.decision[outcome.step.decision >= 0], minlength=len(decisions))
    rows = []
    for i in range(len(decisions)):
        cluster = int(decisions.cluster[i])
        rows.append(
            DecisionRecord(
                project_id=project_id,
                round=number,
                label=outcome.pool.label,
                number=i,
                cluster=cluster,
                action=Action(int(decisions.action[i])).name.lower(),
                members=int(tree.size[cluster]) if cluster >= 0 else int(members[i]),
                asked=int(decisions.asked[i]),
                yes=int(decisions.yes[i]),
                lower=float(decisions.lower[i]),
                upper=float(decisions.upper[i]),
                confidence=float(decisions.confidence[i]),
                test=decisions.test[i],
            )
        )
    return rows
