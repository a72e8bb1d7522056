"""What goes into a search policy and what comes out: the log of verdicts, questions, decisions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clustering.arrays import Ints

if TYPE_CHECKING:  # an export reads what is written here, and needs no package that grows trees
    from clustering.project_pool import ProjectPool

__all__ = [
    "AUDIT",
    "Action",
    "AnswerLog",
    "Decisions",
    "Forecast",
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
    """random sample for the acceptance test of masks that nobody has seen; never used to fit before it"""
    AUDIT = 2
    """uniform sample of what was accepted"""
    HARVEST = 3
    """one by one, best first: what people say decides about this mask alone"""
    CARRIED = 4
    """the answer was about a mask of an earlier round that is nearly the same: it teaches, it decides
    nothing"""


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
    """A number m of answered draws, in the order in which they became known.

    A row is one draw of one instance and what is known of it. An instance that was drawn twice has two rows.

    Attributes
    ----------
    item : (m,) int64, row of the project's pool
    yes : (m,) float32 in 0..1, how likely all answers about the mask make it good: 0 or 1 where answers are
        taken as true. No detector and no verifier enters it
    answer : (m,) float32, the first answer that one person gave to this very draw: 1 yes, 0 no, NaN none of
        the two. Where answers may be wrong, tests read this column alone
    cluster : (m,) int64, node for which the question was drawn; -1 = none
    phase : (m,) int64, phase of the policy that asked, -1 = none. It says which test may read the answer, so
        it must stay as asked
    stream : (m,) int8, a Stream
    inclusion : (m,) float64 in (0, 1], probability with which the item was drawn

    Raises
    ------
    ValueError : the columns have different lengths, or a value is out of its range
    """

    item: Ints
    yes: npt.NDArray[np.float32]
    answer: npt.NDArray[np.float32]
    cluster: Ints
    phase: Ints
    stream: npt.NDArray[np.int8]
    inclusion: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in _LOG_COLUMNS}
        if len(lengths) > 1:
            raise ValueError(f"columns of the log have different lengths: {sorted(lengths)}")
        if not len(self):
            return
        if not ((self.yes >= 0) & (self.yes <= 1)).all():
            raise ValueError("a verdict is not within 0..1")
        if not (np.isnan(self.answer) | (self.answer == 0) | (self.answer == 1)).all():
            raise ValueError("an answer must be 1 (yes), 0 (no) or NaN (neither)")
        if not ((self.inclusion > 0) & (self.inclusion <= 1)).all():
            raise ValueError("an inclusion probability is not within (0, 1]")

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def empty(cls) -> AnswerLog:
        whole, real = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return cls(whole, real, real, whole, whole, np.zeros(0, np.int8), np.zeros(0, np.float64))

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> AnswerLog:
        """The log of the given rows (indices or mask) only: what is left when answers are withdrawn."""
        return AnswerLog(*(getattr(self, name)[rows] for name in _LOG_COLUMNS))

    def extended(
        self, questions: Questions, answer: npt.ArrayLike, yes: npt.ArrayLike | None = None
    ) -> AnswerLog:
        """The log followed by the answers to ``questions``, in their order.

        Parameters
        ----------
        answer : (q,) 1, 0 or NaN
        yes : (q,) in 0..1; None = the answers are taken as true, NaN as undecided
        """
        said = np.asarray(answer, np.float32)
        if said.shape != questions.item.shape:
            raise ValueError(f"{said.shape} answers for {questions.item.shape} questions")
        verdict = np.where(np.isnan(said), np.float32(0.5), said) if yes is None else yes
        added = AnswerLog(
            questions.item,
            np.asarray(verdict, np.float32),
            said,
            questions.cluster,
            questions.phase,
            questions.stream,
            questions.inclusion,
        )
        return AnswerLog(
            *(np.concatenate([getattr(self, name), getattr(added, name)]) for name in _LOG_COLUMNS)
        )


_LOG_COLUMNS = ("item", "yes", "answer", "cluster", "phase", "stream", "inclusion")


def final_verdicts(log: AnswerLog) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Items with a verdict, sorted, and the latest verdict on each: (u,) int64 and (u,) float32."""
    if not len(log):
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    items, first_from_end = np.unique(log.item[::-1], return_index=True)
    return items, log.yes[::-1][first_from_end]


def verified_labels(log: AnswerLog, n: int) -> npt.NDArray[np.int8]:
    """(n,) int8: +1 verified yes, -1 verified no, 0 no verdict or an undecided one (exactly 0.5)."""
    label = np.zeros(n, np.int8)
    items, yes = final_verdicts(log.take(log.stream != Stream.CARRIED))
    label[items] = np.sign(yes - 0.5).astype(np.int8)
    return label


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """A number q of questions to ask next, most useful first.

    Attributes
    ----------
    item, cluster, phase : (q,) int64, as in ``AnswerLog``
    stream : (q,) int8, a Stream
    inclusion : (q,) float64, as in ``AnswerLog``
    form : (q,) int8, a Form
    sheet : (q,) int64, number of the contact sheet the question stands on, -1 for single questions
    """

    item: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]
    phase: npt.NDArray[np.int64]
    stream: npt.NDArray[np.int8]
    inclusion: npt.NDArray[np.float64]
    form: npt.NDArray[np.int8]
    sheet: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def empty(cls) -> Questions:
        whole, small = np.zeros(0, np.int64), np.zeros(0, np.int8)
        return cls(whole, whole, whole, small, np.zeros(0, np.float64), small, whole)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Questions:
        """The given questions, in that order."""
        return Questions(
            self.item[rows],
            self.cluster[rows],
            self.phase[rows],
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
    label : (k,) int64, number of the label, -1 for a set over all labels
    cluster : (k,) int64 node of that label's tree, -1 for a set that is no single node
    phase : (k,) int64, phase whose answers decided, -1 for none
    action : (k,) int8, an Action
    asked, yes : (k,) int64, number of answers behind it, and of yes among them
    lower, upper : (k,) float64, interval of the purity of the masks that carry this decision
    confidence : (k,) float64, level of that interval
    test : k names, of the rule or test that decided
    """

    label: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]
    phase: npt.NDArray[np.int64]
    action: npt.NDArray[np.int8]
    asked: npt.NDArray[np.int64]
    yes: npt.NDArray[np.int64]
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    test: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cluster)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What further answers are expected to bring.

    Attributes
    ----------
    questions : questions still worth asking
    answer_seconds : time to answer them
    masks : good masks that they are expected to find or to accept
    drawing_seconds : time to draw those masks by hand instead
    """

    questions: int
    answer_seconds: float
    masks: int
    drawing_seconds: float

    @classmethod
    def nothing(cls) -> Forecast:
        """No further question is asked."""
        return cls(0, 0.0, 0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class PolicyStep:
    """What a policy returns for one log.

    Attributes
    ----------
    questions : what to ask next (empty when done)
    decisions : all decisions taken so far
    label : (n,) int8, +1 accepted (propagated or verified), -1 rejected, 0 undecided
    decision : (n,) int64, row of ``decisions`` that labelled the instance; -1 = labelled by its own verdict,
        or not at all
    done : nothing left that is worth asking
    p_yes : (n,) float32, how likely each mask is good by what was learnt so far; None = the policy learns
        nothing
    p_lessons : (k,) float32, the same for the project's lessons, each learnt without the lessons of its own
        picture
    forecast : what further answers are expected to bring; None = the policy cannot tell
    """

    questions: Questions
    decisions: Decisions
    label: npt.NDArray[np.int8]
    decision: npt.NDArray[np.int64]
    done: bool
    p_yes: npt.NDArray[np.float32] | None = None
    p_lessons: npt.NDArray[np.float32] | None = None
    forecast: Forecast | None = None


class SearchPolicy(Protocol):
    """A rule that decides what to ask and what to accept, for all labels of a project together.

    ``step`` is a pure function of its arguments: the same pool, log and seed give the same result. So a
    worker that was killed just calls it again. It may be called after every answer.
    """

    name: str

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        """All decisions so far, and at most ``budget`` further questions.

        Parameters
        ----------
        certificate : which promise of the project this is, 1 for the first. Each round, and each change of
            the options, begins a new one; they share the error that the project's promise allows

        Raises
        ------
        ValueError : project and log do not fit each other, or the budget is negative
        """
        ...
