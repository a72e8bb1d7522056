"""Findings in plain words: one line each, for the Data Manager, the dashboard and the page."""

from __future__ import annotations

from sync.mistakes.measure import Raw

__all__ = ["class_reason", "reason_of", "twin_reason", "where"]


def where(box: tuple[float, float, float, float], hw: tuple[int, int]) -> str:
    """Which ninth of the picture the middle of a box lies in: "top left", "middle", …"""
    height, width = hw
    column = min(int(3 * (box[0] + box[2]) / 2 / max(width, 1)), 2)
    row = min(int(3 * (box[1] + box[3]) / 2 / max(height, 1)), 2)
    if row == column == 1:
        return "in the middle"
    up, side = ("top", "", "bottom")[row], ("left", "", "right")[column]
    return f"at the {' '.join(word for word in (up, side) if word)}"


def reason_of(raw: Raw, hw: tuple[int, int]) -> str:
    """One line about an object or an area."""
    place = where(raw.box, hw)
    if raw.kind == "overlooked":
        return f"{raw.label} {place} may be missing: the model is {raw.sure:.0%} sure of one that nobody drew"
    if raw.kind == "swapped":
        return f"{raw.label} {place} may be {raw.other}: the model is {raw.sure:.0%} sure"
    if raw.kind == "nothing":
        return f"{raw.label} {place} may be too much: the model finds nothing there"
    if raw.kind == "placed":
        return (
            f"{raw.label} {place} may be badly placed: drawn and found one overlap by {raw.agree:.0%} "
            "of their area"
        )
    if raw.other == raw.label:
        return f"an area of {raw.label} {place} may be missing: the model is {raw.sure:.0%} sure"
    if raw.other:
        return f"an area of {raw.label} {place} may be {raw.other}"
    if raw.region:
        return (
            f"the area of {raw.label} may be badly outlined: drawn and found area overlap by "
            f"{raw.agree:.0%}, most of the difference is {place}"
        )
    return f"an area of {raw.label} {place} may be too much: the model finds none there"


def class_reason(given: str, likely: str, sure: float) -> str:
    """One line about the class of a picture; ``given`` or ``likely`` may be empty where several may hold."""
    if not given:
        return f"{likely} may be missing: the model is {sure:.0%} sure of it"
    if not likely:
        return f"{given} may be wrong: the model is {sure:.0%} sure that it is not"
    return f"{given} may be {likely}: the model is {sure:.0%} sure"


def twin_reason(other: int, *, exact: bool, leaks: bool, differs: str) -> str:
    """One line about a picture that is there twice; ``differs``: how the labels of the two differ."""
    same = "the same picture as" if exact else "nearly the same picture as"
    text = f"{same} task {other}"
    if leaks:
        text += ", which is trained on while this one is tested on: the model's figures come out too good"
    if differs:
        text += f"; their labels differ ({differs})"
    return text
