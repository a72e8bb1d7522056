"""One question about one mask, as it travels in a review task."""

from __future__ import annotations

from dataclasses import dataclass

from ml_backend.instances import Rle

__all__ = ["FORMS", "HIDDEN", "Question"]

FORMS = ("single", "sheet")
"""names of the forms of review tasks; ``Question.form`` is an index into them"""
HIDDEN = 1000
"""``Question.repeat`` of hidden repeats starts here"""


@dataclass(frozen=True, slots=True)
class Question:
    """Is this mask a good one of its label?

    Attributes
    ----------
    key : see ``make_key``, unique in the project
    project_id, task_id : the label project, and its task that shows the mask
    round : the round that asks
    instance : key of the mask
    label : what the mask is said to be
    item : row of the mask in the pool of its label
    cluster, stream, inclusion : why it was drawn, as in ``clustering.answers.Questions``
    form : index into ``FORMS``
    repeat : 0 when the mask is first asked about; 1, 2, … when it is asked again because its answers leave it
        open; from ``HIDDEN`` on when it is asked again to see whether a worker answers the same
    prior : the detector's probability that the mask is good
    rle : the mask; by it an answer is carried over to later rounds
    sheet : the policy's number of the contact sheet, -1 for none
    phase : phase of the policy that asks, -1 for none: it says which test may read the answer
    certificate : number of the promise that the answer may be a test of, 0 for none
    terms : digest of what that promise says and rests on, see ``sync.rounds.policies.terms_digest``
    """

    key: str
    project_id: int
    round: int
    task_id: int
    instance: str
    label: str
    item: int
    cluster: int
    stream: int
    inclusion: float
    form: int
    repeat: int
    prior: float
    rle: Rle
    sheet: int = -1
    phase: int = -1
    certificate: int = 0
    terms: str = ""

    @staticmethod
    def make_key(
        round_number: int, instance: str, stream: int, repeat: int, *, phase: int, certificate: int
    ) -> str:
        """``<round>:<instance>:<certificate>.<phase>.<stream>:<repeat>``: a mask may be drawn more than once.

        Older releases wrote ``<round>:<instance>:<stream>:<repeat>``.
        """
        return f"{round_number}:{instance}:{certificate}.{phase}.{stream}:{repeat}"
