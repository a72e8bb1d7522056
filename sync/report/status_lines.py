"""The figures of ``groundswell status`` as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sync.review.nouns import plural, plural_noun
from sync.review.promise_text import promise_lines
from sync.rounds.few_pictures import few_pictures_text
from sync.rounds.wishes import PAUSE_TEXTS

__all__ = ["status_lines"]

_METRICS = 4
"""metrics of the test split that are shown, at most"""

_SHOWN_TASKS = 12
"""numbers of tasks printed; all are in the JSON"""

_SHOWN_FOR_EXPERTS = 3
"""links printed; all are in the JSON"""


def status_lines(found: dict[str, Any]) -> list[str]:
    """The status as lines for people."""
    lines = [
        f"Label Studio  {found['services']['label_studio']}",
        f"backend       {found['services']['backend']}",
        f"clicks        {found['clicks']['line'] or 'the backend decides by what when it starts'}",
        *(f"              better: {line}" for line in found["clicks"]["better"]),
    ]
    if found["shared_files"] is not None:
        lines.append(f"shared files  {found['shared_files']['line']}")
    lines += [
        f"at work       {row['what']} ({row['worker']}, last sign of life {row['silent_s']} s ago)"
        for row in found["at_work"]
    ] or ["at work       nobody"]
    for project in found["projects"]:
        lines += ["", *_project_lines(project)]
    if not found["projects"]:
        lines += ["", "no project takes part yet: create one with `groundswell init`"]
    return lines


def _project_lines(project: dict[str, Any]) -> list[str]:
    counts = (
        f"{project['tasks']}, finished {project['finished']}, skipped {project['skipped']}, "
        f"broken {len(project['broken'])}, test split {project['test_split']}"
        + (f" (no. {project['test_split_number']})" if project["test_split_number"] > 1 else "")
    )
    lines = [
        f"project {project['id']}  {project['title']}",
        f"  tasks      {counts if project['pulled_at'] else 'a worker will count them at its first look'}",
        f"  serving    {project['serving'] or 'nothing yet'}"
        + (f", clicks by {clicks}" if (clicks := _clicks_by(project)) else ""),
    ]
    old = project["old_rounds"]
    if old["without_pool"] or old["in_store_alone"] or old["keep_rounds"] is not None:
        keep = "all" if old["keep_rounds"] is None else old["keep_rounds"]
        full = plural(old["with_pool"], "round")
        far = f", {old['in_store_alone']} in the object store alone" if old["in_store_alone"] else ""
        lines.append(
            f"  old        {full} with pool and trees{far}, {old['without_pool']} without "
            f"(keep_rounds: {keep})"
        )
    if project["next_training"] is not None:
        lines.append(f"  training   {project['next_training']['text']}")
    if project["undrawn_test"]:
        lines.append(_undrawn_line(project["undrawn_test"], project["test_split"]))
    if project["paused"]:
        lines.append(f"  {PAUSE_TEXTS[project['paused']]} (`groundswell project resume {project['id']}`)")
    for place in project["answer_at"]:
        if place["open"]:
            what = {"single": "questions", "sheet": "contact sheets"}[place["form"]]
            lines.append(f"  answer     {place['open']} {what} open at {place['url']}")
    if (queue := project["queue"])["count"]:
        trouble = f"; {queue['refused']} could not be written: {queue['error']}" if queue["refused"] else ""
        lines.append(f"  queue      {queue['count']} answers wait for Label Studio{trouble}")
    if project["round_wanted"]:
        lines.append("  a round was asked for; it starts at the worker's next look")
    if project["error"]:
        lines.append(f"  error      {project['error']}")
    lines += [f"  task {row['task']}: {row['reason']}" for row in project["broken"][:5]]
    if len(project["broken"]) > 5:
        lines.append(f"  … and {len(project['broken']) - 5} more broken tasks (--json lists them)")
    if project["clicks_left"]:
        lines.append(f"  clicks     {_left_over(project['clicks_left'])}")
    for label, left in project["positives_left"].items():
        if left["estimate"] is not None:
            stop = ": you may stop looking for more" if left["may_stop"] else ""
            lines.append(
                f"  {label}: {left['found']} found, about {left['estimate']:.0f} left "
                f"(at most {left['upper']} with 95 %) in {left['left']} pictures{stop}"
            )
    if project["rounds"]:
        lines += _round_lines(project["rounds"][-1], project["noun"])
    return lines


def _clicks_by(project: dict[str, Any]) -> str:
    """What the project has of its own: a segmenter that an admin chose, a network of its masks."""
    return ", ".join(name for name in (project["segmenter"], project["click_model"]) if name)


def _undrawn_line(undrawn: Sequence[int], size: int) -> str:
    """What to do where the truth about masks of test pictures is not known."""
    numbers = ", ".join(str(task) for task in undrawn[:_SHOWN_TASKS])
    more = len(undrawn) - _SHOWN_TASKS
    return (
        f"  to measure masks, draw every object on the test pictures: {len(undrawn)} of {size} have none "
        f"drawn, tasks {numbers}" + (f" and {more} more (--json lists them)" if more > 0 else "")
    )


def _left_over(tasks: Sequence[int]) -> str:
    """Finished tasks on which somebody clicked and never accepted the mask."""
    shown = ", ".join(str(task) for task in tasks[:_SHOWN_FOR_EXPERTS])
    more = f" and {len(tasks) - _SHOWN_FOR_EXPERTS} more" if len(tasks) > _SHOWN_FOR_EXPERTS else ""
    many = "tasks were" if len(tasks) > 1 else "task was"
    return (
        f"{len(tasks)} {many} submitted with clicks whose mask nobody accepted ({shown}{more}): open them, "
        "click again and press ✓, or delete the points, then press Update"
    )


def _round_lines(record: dict[str, Any], noun: str) -> list[str]:
    many = plural_noun(noun)
    figures = record["figures"]
    lines = [f"  round {record['number']}    {record['step']} done, {record['model_version']}"]
    if record["failed"]:
        lines.append(f"    failed   {record['failed']}")
    train = figures.get("train", {})
    if train.get("early"):
        lines.append(f"    early    {train.get('said', 'shown until the whole training is done')}")
    metrics = train.get("metrics", {})
    for name in [name for name in metrics if "/" not in name][:_METRICS]:  # those of single labels: history
        value, low, high = metrics[name]
        lines.append(
            f"    {name:<8} {value:.3f} (95 % interval {low:.3f}–{high:.3f}, "
            f"{few_pictures_text(train['n_test']) or str(train['n_test']) + ' test images'}, "
            f"trained on {train['n_train']})"
        )
    if "cluster" in figures:
        sizes = ", ".join(f"{label} {size}" for label, size in figures["cluster"]["pool"].items())
        lines.append(f"    pool     {sizes} ({many} found on unfinished pictures)")
    review = figures.get("review")
    if review:
        per = review["masks_per_question"]
        lines.append(
            f"    review   {review['answered']} of {review['asked']} questions answered, "
            f"{plural(review['accepted'], noun)} accepted ({review['verified']} seen one by one), "
            f"{review['rejected']} rejected" + (f", {per} {many} per question" if per is not None else "")
        )
        lines += [_label_line(row) for row in review.get("by_label", [])]
        lines += [f"    promise  {line}" for line in promise_lines(review, noun)]
        lines += [
            f"    audit    {row['label'] or 'all labels'}: {row['good']} of {row['asked']} accepted {many} "
            f"looked at were good: purity (share of good ones) {row['lower']:.2f}–{row['upper']:.2f} "
            f"({row['confidence']:.0%})"
            for row in review.get("audits", [])
        ]
        lines += [
            f"    lost     review task {row['review_task']} cannot be read: {row['reason']} ({row['url']})"
            for row in review.get("unreadable", [])[:_SHOWN_FOR_EXPERTS]
        ]
        if review.get("expert_queue"):
            lines.append(
                f"    expert   {review['expert_queue']} questions used up their workers (--json lists them)"
            )
            lines += [
                f"             {row['label']}: {row['url']}" for row in review["expert"][:_SHOWN_FOR_EXPERTS]
            ]
        workers = review.get("workers", [])
        lines += [_worker_line(row, many) for row in workers]
        lines += _crowd_lines(workers, review.get("promise"), many)
    clicks = figures.get("clicks", {})
    if clicks.get("failed"):
        lines.append(f"    clicks   network not trained: {clicks['failed']}")
    elif "version" in clicks:
        how = "serves" if clicks["serves"] else "does not beat the segmenter"
        lines.append(f"    clicks   {clicks['version']} {how}")
        lines += [f"             {clicks[name]}" for name in ("reason", "ranking") if clicks.get(name)]
    if record["pushed"]:
        lines.append(f"    shown    {record['pushed']} (the predictions that annotators see)")
    spent = {step: row["seconds"] for step, row in figures.items() if "seconds" in row}
    if spent:
        lines.append("    seconds  " + ", ".join(f"{step} {seconds}" for step, seconds in spent.items()))
    return lines


def _label_line(row: dict[str, Any]) -> str:
    """One label of the review: asked, decided, left, and why no more is asked."""
    asked = f"{row['asked']} asked" if row["asked"] else "never asked about"
    if row["open"]:
        asked += f", {row['open']} of them open"
    parts = [asked]
    if row["masks"]:
        parts.append(
            f"{row['accepted']} accepted ({row['accepted_unseen']} unseen), "
            f"{row['rejected']} rejected ({row['rejected_unseen']} unseen), {row['left']} left"
        )
    if row["why"] != "open":
        parts.append(f"no more is asked: {row['reason']}")
    return f"    {row['label']}: {'; '.join(parts)}"


def _worker_line(row: dict[str, Any], many: str) -> str:
    """One review worker: how many answers, how good, and whether they still count."""
    parts = [f"{row['answers']} answers"]
    if row["seconds"] is not None:
        parts.append(f"{row['seconds']:.1f} s each")
    if row["agreement"] is not None:
        parts.append(f"agrees in {row['agreement']:.0%}")
    parts.append(f"finds {row['sensitivity']:.2f} of the good and {row['specificity']:.2f} of the bad {many}")
    if row["gold"]:
        (a, b), (c, d) = row["sensitivity_interval"], row["specificity_interval"]
        parts.append(f"on {row['gold']} gold {a:.2f}–{b:.2f} and {c:.2f}–{d:.2f}")
    if row["suspended"]:
        parts.append(f"suspended: {', '.join(row['reasons'])}")
    return f"    worker {row['worker']}: {', '.join(parts)}"


def _crowd_lines(workers: Sequence[dict[str, Any]], promise: dict[str, Any] | None, many: str) -> list[str]:
    """How well workers did on gold, and whether the promise allows for errors of that kind.

    Workers whose answers do not count are left out. ``promise`` are the figures of the policy's promise. The
    worker gives the gold answers to a policy that learns from them, so nobody has to.
    """
    counted = [row["gold_counts"] for row in workers if not row["suspended"] and "gold_counts" in row]
    yes, good, no, bad = (sum(column) for column in zip(*counted, strict=True)) if counted else (0, 0, 0, 0)
    if not good or not bad:
        return []
    line = f"    crowd    said yes to {yes} of {good} good and no to {no} of {bad} bad gold {many}"
    if not promise or promise.get("gold") is None:
        return [line]
    first_yes, first_good, first_no, first_bad = promise["gold"]
    return [
        line,
        "             the promise allows for such errors, as first answers show them: "
        f"yes to {first_yes} of {first_good} good, no to {first_no} of {first_bad} bad",
    ]
