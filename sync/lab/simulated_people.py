"""Annotators and crowd workers simulated from ground truth, through the real Label Studio API.

They see what people see: an annotator draws the true instances on the task that Label Studio serves next; a
crowd worker answers the review task that is served next, wrongly with a given probability. Whether an answer
is wrong depends on seed, worker and question alone. So an interrupted simulation gives the same answers when
it goes on, whatever the order of the questions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clustering.costs import Costs
from ml_backend.label_studio.label_config import VERDICTS, LabelConfig
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import region_id
from sync.lab.ground_truth import Truth
from sync.review.question import Question
from sync.review.review_tasks import read_questions
from sync.studio.protocol import StudioClient

__all__ = ["Annotator", "CrowdWorker", "play_crowd"]


@dataclass(slots=True)
class Annotator:
    """Draws the true instances on served tasks, or says which labels they show, as the kind of project wants.

    ``error`` is the probability that an instance is left out, as people overlook things.
    """

    studio: StudioClient
    truth: Truth
    config: LabelConfig
    seed: int = 0
    error: float = 0.0
    done: int = 0
    costs: Costs = field(default_factory=Costs)

    def label_next(self, project_id: int) -> int | None:
        """Annotate the task that Label Studio serves next; its id, or None when nothing is left."""
        task = self.studio.next_task(project_id)
        if task is None:
            return None
        address = self.config.image_of(task.data)
        target = self.config.targets[0]
        if target.tags is not None:
            said = [label for label in self.truth.tags(address) if label in target.labels]
            seconds = self.costs.question * max(1, len(said))
            result = [_choice(target.tags.name, target.tags.to_name, said)] if said else []
        else:
            image = self.truth.image(address)
            regions = [r for r in self.truth.regions(address) if r.label in self.config.labels]
            if self.error:
                regions = [r for r in regions if _uniform(self.seed, "annotator", r.id) >= self.error]
            seconds = self.costs.question + target.is_of.drawn_s * len(regions)
            result = to_result(regions, self.config, image.hw)
        self.studio.create_annotation(task.id, result, lead_time_s=seconds)
        self.done += 1
        return task.id


@dataclass(slots=True)
class CrowdWorker:
    """Answers served review tasks.

    Parameters
    ----------
    studio : as this worker; ``labels`` is the client that reads the tasks of the labelled project
    error : probability of a wrong answer
    unsure : probability of answering unsure (single form only)
    costs : how long answers take; single ones vary by half of it either way
    """

    studio: StudioClient
    labels: StudioClient
    truth: Truth
    image_key: str
    name: str = "worker"
    seed: int = 0
    error: float = 0.0
    unsure: float = 0.0
    costs: Costs = field(default_factory=Costs)
    answered: int = 0
    _address: dict[int, str] = field(default_factory=dict)

    def answer_next(self, review_project_id: int) -> int | None:
        """Answer the review task that is served next; its id, or None when nothing is left."""
        task = self.studio.next_task(review_project_id)
        if task is None:
            return None
        result, seconds, count = self._answer(task.data)
        self.studio.create_annotation(task.id, result, lead_time_s=seconds)
        self.answered += count
        return task.id

    def is_good(self, question: Question) -> bool:
        """The truth about a question."""
        if question.task_id not in self._address:
            data = self.labels.task(question.task_id).data
            self._address[question.task_id] = str(data[self.image_key])
        return self.truth.is_good(self._address[question.task_id], question.label, question.rle)

    def _says_yes(self, question: Question) -> bool:
        wrong = _uniform(self.seed, self.name, question.key) < self.error
        return self.is_good(question) != wrong

    def _answer(self, data: Mapping[str, Any]) -> tuple[list[dict[str, Any]], float, int]:
        form, questions = read_questions(data)
        if form == "single":
            (question,) = questions
            value = VERDICTS[0] if self._says_yes(question) else VERDICTS[1]
            if _uniform(self.seed, f"{self.name}:unsure", question.key) < self.unsure:
                value = VERDICTS[2]
            pace = 0.5 + _uniform(self.seed, f"{self.name}:time", question.key)
            seconds = self.costs.question * pace
            return [_choice("verdict", "image", [value])], seconds, 1
        ticked = [f"card{i}" for i, question in enumerate(questions) if not self._says_yes(question)]
        result = [_choice("wrong", "question", ticked)] if ticked else []
        return result, self.costs.sheet + self.costs.sheet_mask * len(questions), len(questions)


def play_crowd(
    workers: Sequence[CrowdWorker],
    review_projects: Sequence[int],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Let the workers answer in turn until none of them is served a task; returns the number of answers."""
    before = sum(worker.answered for worker in workers)
    idle: set[tuple[int, int]] = set()
    places = [(w, p) for p in review_projects for w in range(len(workers))]
    while len(idle) < len(places) and not stop():
        for w, project_id in places:
            if (w, project_id) not in idle and workers[w].answer_next(project_id) is None:
                idle.add((w, project_id))
    return sum(worker.answered for worker in workers) - before


def _choice(name: str, to_name: str, values: Sequence[str]) -> dict[str, Any]:
    key = region_id(f"{name}:{','.join(values)}")
    value = {"choices": list(values)}
    return {"id": key, "type": "choices", "from_name": name, "to_name": to_name, "value": value}


def _uniform(seed: int, who: str, what: str) -> float:
    """A random number in 0..1, the same for the same arguments."""
    digest = hashlib.blake2b(f"{seed}\0{who}\0{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
