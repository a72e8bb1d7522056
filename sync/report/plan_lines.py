"""Dry runs as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from sync.projects.init_plan import InitPlan
from sync.worker.dry_run import Minutes, RoundPlan

__all__ = ["init_lines", "round_lines"]


def init_lines(plan: InitPlan) -> Iterator[str]:
    """What ``init`` would make, one line per thing."""
    if plan.project_id is None:
        yield f"a project {plan.title!r} of kind {plan.kind} would be made"
    else:
        yield f"project {plan.project_id} {plan.title!r} is there and would be completed"
    yield f"labels: {', '.join(plan.labels)}"
    if plan.makes_review:
        yield "a review project would be made for questions about its masks"
    if plan.pictures:
        yield (
            f"{plan.new_pictures:,} of {plan.pictures:,} pictures would be added"
            + (f", {_size(plan.copied_bytes)} copied into Label Studio" if plan.copied_bytes else "")
            + (f", about {_duration(plan.upload_minutes)}" if plan.copied_bytes else "")
            + f"; {_size(plan.free_bytes)} are free"
        )
    for line in plan.refused:
        yield f"not a picture: {line}"
    for change in plan.options:
        yield f"option {change.name}: {change.old!r} → {change.new!r}"
    yield f"Label Studio would call the backend at {plan.backend}"
    for problem in plan.problems:
        yield f"problem: {problem}"
    yield "label config:"
    yield plan.label_config
    yield "Nothing was made: this was a dry run."


def round_lines(plan: RoundPlan) -> Iterator[str]:
    """What a round would do, one line per step."""
    if plan.paused:
        yield f"{plan.paused}; a round would be refused"
    if plan.changed:
        yield (
            f"pull     {plan.changed:,} changed tasks would be read, "
            f"{plan.newly_finished:,} of them newly finished"
        )
    if sum(plan.waiting):
        yield (
            f"waiting  {sum(plan.waiting):,} predictions of the present round are not shown yet; "
            "the worker sends them at its next look"
        )
    if plan.round is None:
        yield f"train    nothing: {plan.why}"
    elif plan.trains:
        yield (
            f"train    round {plan.round}, {plan.why}: about {plan.train_tasks:,} tasks to learn from, "
            f"{plan.test_tasks:,} to test on"
        )
    else:
        yield f"train    nothing: {plan.why}"
    if plan.round is not None:
        yield f"infer    the model would look at {plan.infer_tasks:,} tasks"
        yield _review_line(plan)
        yield _push_line(plan)
        yield f"time     {_time(plan.minutes)}"
    yield "Nothing was done: this was a dry run."


def _review_line(plan: RoundPlan) -> str:
    if not plan.questions:
        return "review   no questions would be asked"
    text = f"review   up to {plan.questions:,} questions at once"
    if plan.forecast:
        left, minutes = plan.forecast["questions"], plan.forecast["minutes"]
        text += f"; about {left:,} are left to answer ({minutes} minutes)"
    elif plan.trains:
        text += "; after the round, `groundswell preview` says how many in all"
    return text


def _push_line(plan: RoundPlan) -> str:
    parts = [f"{plan.push_add:,} predictions would be sent"]
    if plan.push_replace:
        parts.append(f"{plan.push_replace:,} replaced")
    if plan.push_version:
        parts.append(f"shown as {plan.push_version}")
    for version, count in plan.withdrawn.items():
        parts.append(f"{count:,} of {version} withdrawn")
    return "push     " + ", ".join(parts)


def _time(minutes: Minutes) -> str:
    if minutes.total is None:
        return "no earlier round tells how long it takes"
    if not minutes.rounds:
        return "nothing that takes long"
    unknown = [name for name in ("train", "infer", "cluster", "push") if getattr(minutes, name) is None]
    before = "the round before" if minutes.rounds == 1 else f"{minutes.rounds} rounds before"
    text = f"about {_duration(minutes.total)}, as in {before}"
    return text + (f"; nothing is known of {', '.join(unknown)}" if unknown else "")


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{max(1, round(60 * minutes))} seconds"
    return f"{minutes:.0f} minute{'s' if round(minutes) != 1 else ''}"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("bytes", "kB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
