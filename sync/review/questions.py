"""Questions: which ones to ask, given those that a policy wants answered.

A question that was asked before (answered or not) is not asked again. A mask that needs one more worker gets
a question with the next repeat number. Two kinds are mixed in and look like any other. *Gold* questions have
a known answer: they show masks people drew, every other one made wrong on purpose. *Hidden repeats* ask a
worker the same question a second time.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clustering.answers import Form, Questions, Stream
from clustering.costs import Costs
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.pool_tables import instance_key
from ml_backend.instances import Rle
from sync.review.gold_masks import choose_gold
from sync.review.instructions import example_masks
from sync.review.question import FORMS, HIDDEN, Question
from sync.review.verdicts import Certificate, offsets
from sync.rounds.cluster import LabelPool
from sync.rounds.known_masks import KnownMasks
from sync.rounds.region_rows import drawn_masks, plain_rle
from sync.rounds.task_queries import finished_tasks
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import QuestionRecord

__all__ = [
    "gold_questions",
    "hidden_repeats",
    "new_questions",
    "repeat_questions",
    "spread",
    "without_lone_cards",
]


def new_questions(
    db: ProjectStore,
    settings: Settings,
    round_number: int,
    certificate: Certificate,
    pools: Sequence[LabelPool],
    wanted: Questions,
    known: Sequence[QuestionRecord],
) -> list[Question]:
    """Those of the policy's questions that were not asked yet under this certificate, in the policy's order.

    ``wanted`` names rows of the project's pool.
    """
    # only the first question about a mask says which sample it was drawn for; a repeat does not replace it
    asked = {
        (q.label, q.instance, q.stream, q.phase)
        for q in known
        if q.repeat == 0 and q.certificate == certificate.number
    }
    number = np.searchsorted(offsets(pools), wanted.item, side="right") - 1
    own_row = wanted.item - offsets(pools)[number]
    found = []
    for i in range(len(wanted)):
        pool, row = pools[int(number[i])], int(own_row[i])
        stream, phase = int(wanted.stream[i]), int(wanted.phase[i])
        name = (pool.label, str(pool.table.key[row]), stream, phase)
        if name in asked:
            continue
        asked.add(name)
        form = _form(settings, int(wanted.form[i]))
        question = _question(db, round_number, certificate, pool, row, stream=stream, form=form, phase=phase)
        found.append(
            replace(
                question,
                cluster=int(wanted.cluster[i]),
                inclusion=float(wanted.inclusion[i]),
                sheet=int(wanted.sheet[i]),
            )
        )
    return found


def without_lone_cards(questions: Sequence[Question]) -> list[Question]:
    """Masks on a sheet that has room for no more than a few of them now are asked about one by one."""
    cards = Counter(question.sheet for question in questions)
    least = Costs().smallest_sheet
    return [
        replace(q, form=int(Form.SINGLE), sheet=-1) if q.sheet >= 0 and cards[q.sheet] < least else q
        for q in questions
    ]


def repeat_questions(
    db: ProjectStore,
    round_number: int,
    certificate: Certificate,
    pool: LabelPool,
    rows: npt.NDArray[np.int64],
    known: Sequence[QuestionRecord],
    answered: frozenset[str],
    *,
    hidden: bool = False,
) -> list[Question]:
    """One more single question about each of these rows of a label's pool, unless one is still open."""
    by_instance: dict[str, list[QuestionRecord]] = defaultdict(list)
    for record in known:
        if record.label == pool.label:
            by_instance[record.instance].append(record)
    found = []
    for row in rows.tolist():
        before = by_instance[str(pool.table.key[row])]
        is_open = any(record.key not in answered for record in before)
        if is_open:
            continue
        stream = before[0].stream if before else int(Stream.SEARCH)
        start = HIDDEN if hidden else 0
        used = [record.repeat - start for record in before if record.repeat >= start]
        # from 1 on, also where an earlier round asked first: 0 would say that the mask was drawn
        number = max(1, len(before), 1 + max((number for number in used if number < HIDDEN), default=-1))
        question = _question(
            db,
            round_number,
            certificate,
            pool,
            row,
            stream=stream,
            form=int(Form.SINGLE),
            phase=before[0].phase if before else -1,
            repeat=start + number,
        )
        if before:
            question = replace(question, cluster=before[0].cluster, inclusion=before[0].inclusion)
        found.append(question)
    return found


def hidden_repeats(
    db: ProjectStore,
    settings: Settings,
    round_number: int,
    certificate: Certificate,
    pool: LabelPool,
    questions: int,
    known: Sequence[QuestionRecord],
    answered: frozenset[str],
) -> list[Question]:
    """Ask some answered questions once more (a share of ``questions``), to see who answers the same again."""
    count = math.ceil(questions * settings.repeat_share)
    once = [q for q in known if q.key in answered and q.repeat == 0]
    if not count or not once:
        return []
    rng = np.random.default_rng([settings.seed, round_number, len(known), 1])
    rows = pool.rows_by_key()
    chosen = [once[int(i)] for i in rng.permutation(len(once))[:count]]
    there = np.array([rows[q.instance] for q in chosen if q.instance in rows], np.int64)
    return repeat_questions(db, round_number, certificate, pool, there, known, answered, hidden=True)


def gold_questions(
    db: ProjectStore,
    settings: Settings,
    paths: ProjectPaths,
    round_number: int,
    pool: LabelPool,
    like: Sequence[Question],
    known: Sequence[QuestionRecord],
    known_masks: KnownMasks | None,
) -> list[Question]:
    """``gold_share`` questions whose answer is known; see ``gold_masks`` for the masks.

    Each copies form, sheet, cluster and item of one of the questions ``like``, so that nothing gives it away.
    """
    share = settings.gold_share
    count = math.ceil(len(like) * share / (1.0 - share) - 1e-9)
    if not count:
        return []
    rng = np.random.default_rng([settings.seed, round_number, len(known)])
    drawn = _drawn(db, pool)
    given_away = example_masks(paths)
    places = rng.permutation(len(drawn)).tolist()
    places.sort(key=lambda place: (drawn[place][0], str(drawn[place][1]["counts"])) in given_away)
    masks = choose_gold(
        [drawn[place] for place in places],
        known_masks,
        pool.label,
        pool.kind,
        count,
        rng,
        taken={question.instance for question in known},
    )
    found: list[Question] = []
    for task, rle in masks:
        template = like[int(rng.integers(len(like)))]
        instance = instance_key(task, pool.label, str(rle["counts"]))
        found.append(
            replace(
                template,
                key=Question.make_key(
                    round_number,
                    instance,
                    template.stream,
                    0,
                    phase=template.phase,
                    certificate=template.certificate,
                ),
                task_id=task,
                instance=instance,
                repeat=0,
                rle=plain_rle(rle),
            )
        )
    return found


def _drawn(db: ProjectStore, pool: LabelPool) -> list[tuple[int, Rle]]:
    """(task, mask) of the label that people drew; none for labels of whole pictures, whose size is not known
    here.
    """
    found: list[tuple[int, Rle]] = []
    for task, annotation in finished_tasks(db).values():
        rows = [row for row in annotation.regions if row["label"] == pool.label and row["rle"] is not None]
        if rows and not task.image_error and pool.kind.unit != "picture":
            height, width = rows[0]["rle"]["size"]
            found += [(task.id, rle) for _, rle in drawn_masks([pool.wanted], rows, (height, width))]
    return found


def spread(questions: Sequence[Question], others: Sequence[Question], seed: int) -> list[Question]:
    """Put the others (gold, repeats) at random places among the questions, whose order stays."""
    mixed = list(questions)
    rng = np.random.default_rng([seed, len(questions), len(others)])
    for question in others:
        mixed.insert(int(rng.integers(len(mixed) + 1)), question)
    return mixed


def _question(
    db: ProjectStore,
    round_number: int,
    certificate: Certificate,
    pool: LabelPool,
    row: int,
    *,
    stream: int,
    form: int,
    phase: int,
    repeat: int = 0,
) -> Question:
    instance = str(pool.table.key[row])
    return Question(
        key=Question.make_key(
            round_number, instance, stream, repeat, phase=phase, certificate=certificate.number
        ),
        project_id=db.id,
        round=round_number,
        task_id=int(pool.table.task_id[row]),
        instance=instance,
        label=pool.label,
        item=row,
        cluster=-1,
        stream=stream,
        inclusion=1.0,
        form=form,
        repeat=repeat,
        prior=round(float(pool.pool.prior[row]), 6),
        rle=plain_rle(pool.table.rle(row)),
        phase=phase,
        certificate=certificate.number,
        terms=certificate.terms,
    )


def _form(settings: Settings, wanted: int) -> int:
    if settings.review_form == "auto":
        return wanted
    return FORMS.index(settings.review_form)
