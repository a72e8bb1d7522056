"""The search policy of a project, from its settings; and which settings a promise rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ml_backend.errors import BadInput
from sync.rounds.round_records import digest_of
from sync.settings import Settings

if TYPE_CHECKING:
    from clustering.answers import SearchPolicy

__all__ = ["build_policy", "gold_is_counted", "reads_first_answers", "terms_digest"]

_NOISE_OPTIONS = frozenset({"sensitivity", "specificity", "gold"})
NO_GOLD = (0, 0, 0, 0)


def build_policy(settings: Settings, *, section: str = "settings") -> SearchPolicy:
    """The policy with its options.

    Where people's answers may err and nothing says how often, the certified policy learns it from gold
    (``gold_is_counted``). It is built without any yet.

    Raises BadInput, with a field of ``section``, when no policy has the name or it refuses the options.
    """
    import inspect

    from clustering.search import POLICIES, make_policy  # a second to import, which `doctor` does not need

    field, hint = f"{section}.policy_options", "docs/questions.md lists the policies"
    options = dict(settings.policy_options)
    try:
        name = make_policy(settings.policy).name
    except ValueError as error:
        raise BadInput(str(error), field=field, hint=hint) from error
    known = list(inspect.signature(POLICIES[name]).parameters)
    for unknown in sorted(set(options) - set(known)):
        raise BadInput(
            f"the policy {name} has no option {unknown!r}",
            field=field,
            hint=f"Its options: {', '.join(known)}" if known else "It has no options",
        )
    if gold_is_counted(settings):
        options["gold"] = NO_GOLD
    try:
        return make_policy(name, **options)
    except (ValueError, TypeError) as error:
        raise BadInput(str(error), field=field, hint=hint) from error


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


def terms_digest(settings: Settings) -> str:
    """Digest of the settings that a promise rests on: when one of them changes, a new promise begins.

    Gold answers are none of them: the bounds from gold hold at every number of answers.
    """
    crowd = settings.review_overlap_max > 1
    return digest_of(
        {
            "policy": build_policy(settings).name,
            "options": settings.policy_options,
            "seed": settings.seed,
            "crowd": crowd,
            "min_answer_s": settings.min_answer_s if crowd else None,
        }
    )[:12]
