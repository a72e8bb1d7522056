"""Decisions: store what the policy decided, as rows of the store and as verdicts on disk."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from sqlalchemy import delete

from clustering.answers import Action
from ml_backend.artifacts.other_class import OTHER_CLASS
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.verdicts import Verdict, VerdictTable, write_verdicts
from sync.review.decide import Outcome
from sync.review.verdicts import offsets
from sync.store.project_store import ProjectStore
from sync.store.tables import DecisionRecord, RoundRecord

__all__ = ["store_decisions"]


def store_decisions(
    db: ProjectStore,
    paths: ProjectPaths,
    record: RoundRecord,
    outcome: Outcome,
    of_other_class: Collection[int] = (),
) -> VerdictTable:
    """Replace decisions and verdicts of the round by those of this look.

    ``of_other_class``: rows of the project's pool that are settled to be of the other of two classes.
    """
    rows = _verdict_rows(outcome, of_other_class)
    verdicts = write_verdicts(paths.round(record.number), rows, guard=db.guard)
    with db.write() as session:
        session.execute(
            delete(DecisionRecord).where(
                DecisionRecord.project_id == db.id, DecisionRecord.round == record.number
            )
        )
        session.add_all(_decision_rows(db.id, record.number, outcome))
    return verdicts


def _verdict_rows(outcome: Outcome, of_other_class: Collection[int]) -> list[Verdict]:
    done, decisions = outcome.propagation, outcome.propagation.decisions
    rows = []
    for pool, first in zip(outcome.pools, offsets(outcome.pools).tolist(), strict=False):
        for own in np.flatnonzero(done.label[first : first + len(pool)]).tolist():
            item = first + own
            at = int(done.decision[item])
            by_decision = at >= 0
            own_test = OTHER_CLASS if item in of_other_class else "verdict"
            rows.append(
                Verdict(
                    key=str(pool.table.key[own]),
                    label=pool.label,
                    verdict=int(done.label[item]),
                    verified=bool(done.verified[item]),
                    decision=at,
                    cluster=int(decisions.cluster[at]) if by_decision else -1,
                    lower=float(decisions.lower[at]) if by_decision else float("nan"),
                    upper=float(decisions.upper[at]) if by_decision else float("nan"),
                    confidence=float(decisions.confidence[at]) if by_decision else float("nan"),
                    test=decisions.test[at] if by_decision else own_test,
                )
            )
    return rows


def _decision_rows(project_id: int, number: int, outcome: Outcome) -> list[DecisionRecord]:
    decisions, pools = outcome.step.decisions, outcome.pools
    members = np.bincount(outcome.step.decision[outcome.step.decision >= 0], minlength=len(decisions))
    rows = []
    for i in range(len(decisions)):
        cluster, label = int(decisions.cluster[i]), int(decisions.label[i])
        in_tree = cluster >= 0 and label >= 0
        rows.append(
            DecisionRecord(
                project_id=project_id,
                round=number,
                label=pools[label].label if label >= 0 else "",
                number=i,
                cluster=cluster,
                phase=int(decisions.phase[i]),
                action=Action(int(decisions.action[i])).name.lower(),
                members=int(pools[label].tree.size[cluster]) if in_tree else int(members[i]),
                asked=int(decisions.asked[i]),
                yes=int(decisions.yes[i]),
                lower=float(decisions.lower[i]),
                upper=float(decisions.upper[i]),
                confidence=float(decisions.confidence[i]),
                test=decisions.test[i],
            )
        )
    return rows
