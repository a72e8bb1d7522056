"""Read and check COCO's compressed run lengths. This is the only parser for them.

A mask is stored as the lengths of its runs, column by column, background first. In the compressed form each
length is a variable-length integer in groups of 5 bits, one ASCII character per group. From the fourth length
on, the difference to the length two places before is stored. pycocotools does not check its input and reads
past its memory when the lengths do not fit the image, so masks from outside are read here first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ml_backend.errors import BadInput

__all__ = ["MAX_PIXELS", "RunLengths", "read_counts", "read_run_lengths", "sum_within"]

MAX_PIXELS: Final = 2**31 - 1
"""Largest image a mask may have: pycocotools counts in 32 bits."""

_DIGITS: Final = 7
"""This many groups of 5 bits hold every length up to ``MAX_PIXELS`` with its sign."""
_ZERO: Final = 48

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RunLengths:
    """The runs of n masks one after the other; they cover each image exactly.

    mask : (r,) int64, index of the mask, ascending; place : (r,) int64, number of the run within its mask
    (odd = inside); length : (r,) int64, pixels, 0 or more
    """

    mask: Ints
    place: Ints
    length: Ints


def read_counts(counts: str, hw: tuple[int, int]) -> Ints:
    """(r,) int64 run lengths of one mask. Raises BadInput, field ``rle[0]``, when they do not fit ``hw``."""
    return read_run_lengths([counts], np.array([hw], np.int64)).length


def read_run_lengths(counts: Sequence[str], hw: Ints) -> RunLengths:
    """Run lengths of n masks from their compressed counts.

    Parameters
    ----------
    counts : n texts
    hw : (n, 2) height and width of each image

    Raises BadInput whose field ``rle[<i>]`` names the first damaged mask. O(characters) time and memory.
    """
    n = len(counts)
    too_large = (hw < 0).any(axis=1) | (hw > MAX_PIXELS).any(axis=1)
    too_large |= np.where(too_large, 0, hw[:, 0] * hw[:, 1]) > MAX_PIXELS
    _refuse(too_large, lambda i: f"{hw[i, 0]}×{hw[i, 1]} is not the size of an image of up to 2³¹ pixels")
    chars = np.array([len(text) for text in counts], np.int64)
    _refuse(chars == 0, lambda i: "the mask has no counts")
    ascii_only = np.array([text.isascii() for text in counts], bool)
    _refuse(~ascii_only, lambda i: "the counts hold characters that are not ASCII")
    if not n:
        nothing = np.zeros(0, np.int64)
        return RunLengths(nothing, nothing, nothing)
    raw = np.frombuffer("".join(counts).encode("ascii"), np.uint8).astype(np.int64) - _ZERO
    mask_of_char = np.repeat(np.arange(n), chars)
    wrong = (raw < 0) | (raw > 63)
    if wrong.any():
        _refuse_mask(mask_of_char[wrong], "the counts hold characters outside of '0' to 'o'")
    values, mask = _read_integers(raw, mask_of_char, np.cumsum(chars) - 1)
    first = np.searchsorted(mask, np.arange(n))
    place = np.arange(len(mask)) - first[mask]
    length = _undo_differences(values, mask, place, n)
    size = hw[:, 0] * hw[:, 1]
    wrong = (length < 0) | (length > size[mask])
    if wrong.any():
        i, run = int(mask[wrong][0]), int(length[wrong][0])
        raise BadInput(f"a run is {run} pixels long, the image has {size[i]}", field=f"rle[{i}]")
    total = np.add.reduceat(length, first)
    _refuse(total != size, lambda i: f"the runs cover {total[i]} pixels, the image has {size[i]}")
    return RunLengths(mask, place, length)


def _refuse(wrong: npt.NDArray[np.bool_], message: Callable[[int], str]) -> None:
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        raise BadInput(message(i), field=f"rle[{i}]")


def _refuse_mask(masks: Ints, message: str) -> None:
    raise BadInput(message, field=f"rle[{int(masks[0])}]")


def _read_integers(raw: Ints, mask_of_char: Ints, final_char: Ints) -> tuple[Ints, Ints]:
    """The integers of all masks and the mask each belongs to, both (r,)."""
    last = (raw & 0x20) == 0
    _refuse(~last[final_char], lambda i: "the counts end inside a number")
    start = np.flatnonzero(np.concatenate(([True], last[:-1])))
    digits = np.diff(start, append=len(raw))
    if (digits > _DIGITS).any():
        _refuse_mask(mask_of_char[start[digits > _DIGITS]], "a number of the counts is too long")
    shift = 5 * (np.arange(len(raw)) - np.repeat(start, digits))
    values = np.add.reduceat((raw & 0x1F) << shift, start)
    negative = (raw[last] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * digits), 0)
    return values, mask_of_char[start]


def _undo_differences(values: Ints, mask: Ints, place: Ints, n: int) -> Ints:
    """Restore the lengths by running sums along the odd and along the even places. From the fourth length on,
    the stored value is the difference to the length two places before.

    No difference refers to the first length, so the even sums start at place 2 and the odd ones at place 1.
    """
    length = values.copy()
    for first in (1, 2):
        if n == 1:
            length[first::2] = np.cumsum(values[first::2])
        else:
            chain = np.flatnonzero((place >= first) & (place % 2 == first % 2))
            length[chain] = sum_within(values[chain], mask[chain])
    return length


def sum_within(values: Ints, group: Ints) -> Ints:
    """Running sums that start again where ``group`` (sorted) changes."""
    if not len(values):
        return values
    total = np.cumsum(values)
    first = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
    before = np.concatenate([[0], total[first[1:] - 1]])
    return np.asarray(total - np.repeat(before, np.diff(np.append(first, len(values)))), np.int64)
