"""The text that review workers read before their first question."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from ml_backend.kinds.registry import Wanted

__all__ = ["Example", "about", "example_rows", "instructions"]

_EXAMPLE_PX = 92  # six stand beside each other in the dialog


@dataclass(frozen=True, slots=True)
class Example:
    """One picture in the instructions; ``key`` names its crop, ``caption`` says what it shows."""

    label: str
    key: str
    url: str
    is_good: bool
    caption: str


def instructions(wanted: Sequence[Wanted], *, form: str, examples: Sequence[Example] = ()) -> str:
    """Instructions for review workers as HTML, with a row of small pictures for each label that has examples.

    Label Studio removes ``style`` attributes here: size and layout are attributes of tables and pictures.
    """
    if form == "single":
        how = (
            "<p>Each picture comes with one question. Press <b>y</b> for yes, <b>n</b> for no, and <b>u</b> "
            "if you cannot tell. Then press Ctrl+Enter.</p>"
        )
    else:
        how = "<p>Tick every card that is <b>wrong</b>. Do not tick the good ones. Then press Ctrl+Enter.</p>"
    labels = [label for target in wanted for label in target.labels]
    keep, refuse = ("<b>y</b>", "<b>n</b>") if form == "single" else ("leave", "<b>tick</b>")
    return how + about(wanted) + example_rows(labels, examples, keep, refuse)


def about(wanted: Sequence[Wanted]) -> str:
    """What is good, as HTML: a paragraph for each kind, with the labels that are of it."""
    return "".join(
        f"<p>{_names(target)}: good is {html.escape(target.is_of.check)}.</p>"
        for target in wanted
        if target.labels
    )


def _names(target: Wanted) -> str:
    return ", ".join(f"<b>{html.escape(label)}</b>" for label in target.labels)


def example_rows(labels: Sequence[str], examples: Sequence[Example], keep: str, refuse: str) -> str:
    """A row of small pictures for each label that has some; ``keep`` and ``refuse`` are HTML that stands
    under the good ones and the bad ones.
    """
    rows = [[example for example in examples if example.label == label] for label in labels]
    return "".join(_example_row(row, keep, refuse) for row in rows if row)


def _example_row(examples: Sequence[Example], keep: str, refuse: str) -> str:
    cells = "".join(
        f'<td align="center" valign="top" width="{_EXAMPLE_PX + 6}">'
        f'<img src="{html.escape(e.url)}" width="{_EXAMPLE_PX}" alt="{html.escape(e.caption)}">'
        f"{_under(keep if e.is_good else refuse, e.caption)}</td>"
        for e in examples
    )
    return (
        f"<p><b>{html.escape(examples[0].label)}</b></p>"
        f'<table cellpadding="3" cellspacing="0"><tbody><tr>{cells}</tr></tbody></table>'
    )


def _under(said: str, caption: str) -> str:
    """What stands under a picture; a caption that says the same is left out."""
    return said if said == caption else f"{said} · {html.escape(caption)}"
