"""What goes into a search policy and what comes out: the log of verdicts, questions, decisions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clustering.arrays import Ints

if TYPE_CHECKING:  # an export reads what is written here, and needs no package that grows trees
    from clustering.pool import Pool
    from clustering.trees import ClusterTree

__all__ = [
    "AUDIT",
    "Action",
    "AnswerLog",
    "Decisions",
    "Form",
    "PolicyStep",
    "Questions",
    "SearchPolicy",
    "Stream",
    "final_verdicts",
    "verified_labels",
]


AUDIT = "audit"
"""``Decisions.test`` of the final audit of an accepted set, whose interval gets published."""


class Stream(IntEnum):
    """Why an instance was asked about. Tests that need a random sample read their own stream only."""

    SEARCH = 0
    """to judge a cluster or to teach the verifier"""
    CALIBRATION = 1
    """reserved for the acceptance test, never used to fit"""
    AUDIT = 2
    """uniform sample of what was accepted"""
    SHEET = 3
    """member of a contact sheet"""


class Form(IntEnum):
    """How a question is shown."""

    SINGLE = 0
    """one crop, y / n / unsure"""
    SHEET = 1
    """a grid of crops, the wrong ones ticked"""


class Action(IntEnum):
    """What is decided about a cluster or a set."""

    ASK = 0
    ACCEPT = 1
    REJECT = 2
    SPLIT = 3


@dataclass(frozen=True, slots=True, eq=False)
class AnswerLog:
    """A number m of verdicts, in the order in which they became known.

    Attributes
    ----------
    item : (m,) int64, row of the pool
    yes : (m,) float32 in 0..1, probability that the verdict is yes (0 or 1 where answers are taken as true)
    cluster : (m,) int64, node for which the question was drawn; -1 = none; -2-j = phase j of a policy that
        accepts sets rather than nodes. It says which test may read the answer, so it must stay as asked
    stream : (m,) int8, a Stream
    inclusion : (m,) float64 in (0, 1], probability with which the item was drawn
    """

    item: npt.NDArray[np.int64]
    yes: npt.NDArray[np.float32]
    cluster: npt.NDArray[np.int64]
    stream: npt.NDArray[np.int8]
    inclusion: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def empty(cls) -> AnswerLog:
        return cls(
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
            np.zeros(0, np.int8),
            np.zeros(0, np.float64),
        )

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> AnswerLog:
        """The log of the given rows (indices or mask) only: what is left when answers are withdrawn."""
        return AnswerLog(
            self.item[rows], self.yes[rows], self.cluster[rows], self.stream[rows], self.inclusion[rows]
        )

    def extended(self, questions: Questions, yes: npt.ArrayLike) -> AnswerLog:
        """The log followed by the verdicts ``yes`` ((q,) in 0..1) on ``questions``, in their order."""
        verdicts = np.asarray(yes, np.float32)
        if verdicts.shape != questions.item.shape:
            raise ValueError(f"{verdicts.shape} verdicts for {questions.item.shape} questions")
        return AnswerLog(
            np.concatenate([self.item, questions.item]),
            np.concatenate([self.yes, verdicts]),
            np.concatenate([self.cluster, questions.cluster]),
            np.concatenate([self.stream, questions.stream]),
            np.concatenate([self.inclusion, questions.inclusion]),
        )


def final_verdicts(log: AnswerLog) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Items with a verdict, sorted, and the latest verdict on each: (u,) int64 and (u,) float32."""
    if not len(log):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    items, first_from_end = np.unique(log.item[::-1], return_index=True)
    return items, log.yes[::-1][first_from_end]


def verified_labels(log: AnswerLog, n: int) -> npt.NDArray[np.int8]:
    """(n,) int8: +1 verified yes, -1 verified no, 0 no verdict or an undecided one (exactly 0.5)."""
    label = np.zeros(n, np.int8)
    items, yes = final_verdicts(log)
    label[items] = np.sign(yes - 0.5).astype(np.int8)
    return label


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """A number q of questions to ask next, most useful first.

    Attributes
    ----------
    item, cluster : (q,) int64, as in ``AnswerLog``
    stream : (q,) int8, a Stream
    inclusion : (q,) float64, as in ``AnswerLog``
    form : (q,) int8, a Form
    sheet : (q,) int64, number of the contact sheet the question stands on, -1 for single questions
    """

    item: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]
    stream: npt.NDArray[np.int8]
    inclusion: npt.NDArray[np.float64]
    form: npt.NDArray[np.int8]
    sheet: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def empty(cls) -> Questions:
        whole, small = np.zeros(0, np.int64), np.zeros(0, np.int8)
        return cls(whole, whole, small, np.zeros(0, np.float64), small, whole)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Questions:
        """The given questions, in that order."""
        return Questions(
            self.item[rows],
            self.cluster[rows],
            self.stream[rows],
            self.inclusion[rows],
            self.form[rows],
            self.sheet[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """What was decided so far: k rows, one per cluster, per certified set, and per audit of a set.

    Attributes
    ----------
    cluster : (k,) int64 node, -1 for a set that is no single node
    action : (k,) int8, an Action
    asked, yes : (k,) int64, number of verdicts behind it, and of yes among them
    lower, upper : (k,) float64, interval of the purity of the cluster or set
    confidence : (k,) float64, level of that interval
    test : k names, of the rule or test that decided
    """

    cluster: npt.NDArray[np.int64]
    action: npt.NDArray[np.int8]
    asked: npt.NDArray[np.int64]
    yes: npt.NDArray[np.int64]
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    test: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cluster)


@dataclass(frozen=True, slots=True, eq=False)
class PolicyStep:
    """What a policy returns for one log.

    Attributes
    ----------
    questions : what to ask next (empty when done)
    decisions : all decisions taken so far
    label : (n,) int8, +1 accepted (propagated or verified), -1 rejected, 0 undecided
    decision : (n,) int64, row of ``decisions`` that labelled the instance; -1 = labelled by its own verdict,
        or
        not at all
    done : nothing left that is worth asking
    """

    questions: Questions
    decisions: Decisions
    label: npt.NDArray[np.int8]
    decision: npt.NDArray[np.int64]
    done: bool


class SearchPolicy(Protocol):
    """A rule that decides what to ask and what to accept.

    ``step`` is a pure function of its arguments: the same tree, pool, log and seed give the same answer. So a
    worker that was killed just calls it again. It may be called after every verdict.
    """

    name: str

    def step(self, tree: ClusterTree, pool: Pool, log: AnswerLog, *, budget: int, seed: int) -> PolicyStep:
        """All decisions so far, and at most ``budget`` further questions.

        Raises
        ------
        ValueError : tree, pool and log do not fit each other, or the budget is negative
        """
        ...
