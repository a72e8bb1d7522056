"""The published search (Papadopoulos et al., ICCV 2021): best mean prior first. The baseline to beat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from clustering.answers import Action, AnswerLog, Form, PolicyStep, Questions, Stream, verified_labels
from clustering.arrays import Floats
from clustering.costs import Costs
from clustering.project_pool import ProjectPool
from clustering.search._frontier import FrontierSearch, Priority
from clustering.search._parts import QuestionRows
from clustering.search._scores import answered, ask_best_first, platt_scaled
from clustering.search._sheets import cut_sheets

__all__ = ["Original"]


class Original(FrontierSearch):
    """Best mean prior first; 15 members asked, ≥ 0.85 yes accepts, < 0.15 rejects, else split and ask again.

    Parameters
    ----------
    sheets : put questions on contact sheets; as published, each stands alone
    finish : then ask about the masks that were not accepted, best first, while that pays; as published, it
        ends with the search
    question_s, sheet_s, sheet_mask_s, drawn_mask_s : human seconds, see ``clustering.costs``
    prior, min_size, sample, accept, reject, reuse : see ``SampleRule``
    """

    name = "original"

    def __init__(self, *, sheets: bool = False, finish: bool = False, **options: Any) -> None:
        given = Costs()
        times = {
            name: options.pop(f"{name}_s", getattr(given, name))
            for name in ("question", "sheet", "sheet_mask", "drawn_mask")
        }
        super().__init__(**options)
        self.costs = Costs(**times)
        self.sheets, self.finish = sheets, finish

    def priority(self, seed: int) -> Priority:
        return lambda node, found, mean: -mean

    def step(
        self, project: ProjectPool, log: AnswerLog, *, budget: int, seed: int, certificate: int = 1
    ) -> PolicyStep:
        """The published search, and what the options add to it; see ``SearchPolicy``."""
        # answers of the finish must not enter the search: it would judge other clusters by them
        search = log.take(log.stream != Stream.HARVEST)
        step = super().step(project, search, budget=budget, seed=seed, certificate=certificate)
        if self.sheets:
            step = replace(
                step, questions=self._on_sheets(step.questions, project.columns.prior.astype(np.float64))
            )
        own = verified_labels(log, len(project))
        label = np.where(own != 0, own, step.label).astype(np.int8)
        step = replace(step, label=label, decision=np.where(own != 0, -1, step.decision))
        return self._finished(project, log, step, budget) if self.finish and step.done else step

    def _on_sheets(self, questions: Questions, prior: Floats) -> Questions:
        order, sheet = cut_sheets(prior[questions.item], self.costs, first_sheet=0)
        form = np.where(sheet >= 0, Form.SHEET, Form.SINGLE).astype(np.int8)
        return replace(questions.take(order), sheet=sheet, form=form)

    def _finished(self, project: ProjectPool, log: AnswerLog, step: PolicyStep, budget: int) -> PolicyStep:
        """Ask best first about what the search did not accept."""
        n = len(project)
        p_good = platt_scaled(project.columns.prior, log.item, log.yes)
        # in a rejected cluster no more are expected to be good than its answers showed
        for row in np.flatnonzero(step.decisions.action == Action.REJECT).tolist():
            members = step.decision == row
            share = (step.decisions.yes[row] + 0.5) / (step.decisions.asked[row] + 1.0)
            p_good[members] = np.minimum(p_good[members], share)
        questions = QuestionRows(budget)
        open_ = (step.label <= 0) & ~answered(log, n)
        done = ask_best_first(log, p_good, open_, questions, costs=self.costs, sheets=self.sheets)
        return replace(
            step,
            questions=questions.build(),
            done=done,
            p_yes=p_good.astype(np.float32),
        )
