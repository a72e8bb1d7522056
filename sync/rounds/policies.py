"""The search policy of a project, from its settings; and which settings a promise rests on."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput
from sync.rounds.round_records import digest_of
from sync.settings import Settings

if TYPE_CHECKING:
    from clustering.answers import SearchPolicy
    from clustering.project_pool import Lessons

__all__ = ["build_policy", "gold_is_counted", "reads_first_answers", "terms_digest"]

_NOISE_OPTIONS = frozenset({"sensitivity", "specificity", "gold"})
_NO_GOLD = (0, 0, 0, 0)
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


def build_policy(settings: Settings, *, section: str = "settings") -> SearchPolicy:
    """The policy with its options.

    Where people's answers may err and nothing says how often, the certified policy learns it from gold
    (``gold_is_counted``). It is built without any yet.

    Raises BadInput, with a field of ``section``, when no policy has the name or it refuses the options.
    """
    from clustering.search import make_policy  # a second to import, which `doctor` does not need

    field, hint = f"{section}.policy_options", "docs/questions.md lists the policies and their options"
    options = dict(settings.policy_options)
    try:
        name = make_policy(settings.policy).name
        if gold_is_counted(settings):
            options["gold"] = _NO_GOLD
        return make_policy(name, **options)
    except ValueError as error:
        raise BadInput(str(error), field=field, hint=hint) from error
    except TypeError as error:
        unknown = _UNKNOWN.search(str(error))
        reason = str(error) if unknown is None else f"the policy {name} has no option {unknown[1]!r}"
        raise BadInput(reason, field=field, hint=hint) from error


def gold_is_counted(settings: Settings) -> bool:
    """Whether the policy is to learn from gold how people's answers err: where the reliability of people is
    estimated, unless an option of the policy says it."""
    from clustering.search import make_policy
    from clustering.search.certified import Certified

    if settings.review_overlap_max == 1 or _NOISE_OPTIONS & set(settings.policy_options):
        return False
    return isinstance(make_policy(settings.policy), Certified)


def reads_first_answers(settings: Settings) -> bool:
    """Whether the policy allows for errors itself, and so reads first answers instead of verdicts."""
    from clustering.search.certified import Certified

    policy = build_policy(settings)
    return isinstance(policy, Certified) and not policy.plan_noise.exact


def terms_digest(settings: Settings, lessons: Lessons | None = None) -> str:
    """Digest of what a promise rests on: when something of it changes, a new promise begins.

    That are settings, and the truth of the lessons: the tested sets are cut by what was learnt from them.
    Gold answers are none of it: the bounds from gold hold at every number of answers.
    """
    crowd = settings.review_overlap_max > 1
    learnt = [] if lessons is None else [lessons.label, lessons.good, lessons.picture]
    return digest_of(
        {
            "policy": build_policy(settings).name,
            "options": settings.policy_options,
            "seed": settings.seed,
            "crowd": crowd,
            "min_answer_s": settings.min_answer_s if crowd else None,
            "lessons": [hashlib.sha256(column.tobytes()).hexdigest() for column in learnt],
        }
    )[:12]
