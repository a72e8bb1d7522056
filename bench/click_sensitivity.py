"""How much the clicks of ``classical`` depend on its constants: ``python -m bench.click_sensitivity STEP``.

Each constant is changed alone, to 0.5, 0.7, 1.4 and 2 times its value, and simulated users click the same
objects with each (clicks to IoU 0.85; a failure counts as 20). Steps:

* ``measure DATA --kept FILE`` clicks. FILE gets one line per set and change, so it goes on where it stopped;
  ``--only SET`` lets several processes share the work.
* ``table --kept FILE`` prints the differences from the constants as they are, as a table in Markdown.
* ``check DATA --kept FILE`` sets each constant whose best change was a clear gain on the pictures to choose
  by, all at once, and prints clicks before and after on those that were held back.

DATA is a folder of COCO sets (``NAME/images``, ``NAME/annotations.json``). Pictures are divided as in
``bench/click_confidence.py``: half of each of three sets to choose by, which the table is about; the other
halves and all of COCO are held back.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.experiment import ClickExperiment, pick_targets, split_images
from ml_backend.clicks.evaluation.simulated_clicks import ClickTarget, evaluate_clicks
from ml_backend.clicks.segmenters import classical, edge_path
from ml_backend.images.decode import read_image
from ml_backend.masks.coco import load_coco

__all__ = ["CONSTANTS", "changed", "chosen", "clear_gain", "paired"]

FACTORS = (0.5, 0.7, 1.4, 2.0)
CHOOSE: Mapping[str, int] = {"nuclei_dsb2018_a": 36, "mushrooms": 36, "bsds500_segments": 18}
"""Sets of which one half is chosen by, and how many objects; one of the third takes ten times as long."""
HELD_BACK = (*CHOOSE, "coco_natural_a")
TARGET_IOU, MAX_CLICKS = 0.85, 20
CONSTANTS: Mapping[str, ModuleType] = {
    **dict.fromkeys(
        (
            "_SIDE", "_MASK_EDGE", "_FIRST_REACH", "_BAND_NEW", "_BAND_FIX", "_REACH", "_MORE_PX", "_NEAR",
            "_CORE", "_ANEW", "_REFIT_FROM_PX", "_REFIT_SIDE", "_THIN_PX", "_ALONG", "_CLOSE",
        ),
        classical,
    ),
    **dict.fromkeys(("BINS", "RAYS", "_SPAN", "_INNER", "_BEND"), edge_path),
}  # fmt: skip
"""Name and module of each. ``_SAME_OBJECT`` counts for proposals alone; the users here start from nothing."""

Floats = npt.NDArray[np.float64]
Change = Mapping[str, float]


class _MaskAlone(classical.ClassicalSegmenter):
    """``classical`` without the score of its masks, which takes half of the time and changes no mask."""

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        mask = self.mask(embedding, prompt, start_mask)
        return ClickResult(mask[None], np.zeros(1, np.float32), None)


@contextmanager
def changed(change: Change) -> Iterator[None]:
    """Inside, the named constants are so many times their value; whole numbers stay whole."""
    with ExitStack() as stack:
        for name, factor in change.items():
            usual = getattr(CONSTANTS[name], name)
            value = max(1, round(usual * factor)) if isinstance(usual, int) else usual * factor
            stack.enter_context(patch.object(CONSTANTS[name], name, value))
        yield


def targets_of(data: Path, name: str, part: str, limit: int) -> list[ClickTarget]:
    """Objects of the part "choose" or "report" of a set, one of each picture, then a second, and so on."""
    whole = load_coco(data / name / "images", data / name / "annotations.json")
    split = split_images(whole, train_fraction=0.5 if name in CHOOSE else 0.0, seed=0)
    images = split.train if part == "choose" else split.test
    return pick_targets(images, whole.categories, ClickExperiment(limit=limit), {})


def clicks_of(targets: Sequence[ClickTarget], change: Change) -> tuple[list[str], list[int]]:
    """Picture and clicks of each object; 20 where IoU 0.85 was not reached."""
    with changed(change):
        traces, _ = evaluate_clicks(
            _MaskAlone(), targets, read_image, max_clicks=MAX_CLICKS, stop_iou=TARGET_IOU
        )
    found = [trace.clicks_to(TARGET_IOU) for trace in traces["empty"]]
    return [t.image for t in traces["empty"]], [MAX_CLICKS if n is None else n for n in found]


class Kept:
    """Results in a file, one JSON object a line. A line cut off by a kill is measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    print(f"a line of {path} is cut off; it is measured again", file=sys.stderr)
                    continue
                self._rows[row["key"]] = row

    def get(self, name: str, part: str, limit: int, change: Change) -> dict[str, Any] | None:
        return self._rows.get(_key(name, part, limit, change))

    def add(
        self, name: str, part: str, limit: int, change: Change, pictures: list[str], clicks: list[int]
    ) -> None:
        row = {"key": _key(name, part, limit, change), "pictures": pictures, "clicks": clicks}
        self._rows[str(row["key"])] = row
        with self._path.open("a") as file:
            file.write("\n" * self._torn() + json.dumps(row) + "\n")

    def _torn(self) -> bool:
        return self._path.stat().st_size > 0 and not self._path.read_bytes().endswith(b"\n")


def _key(name: str, part: str, limit: int, change: Change) -> str:
    said = " ".join(f"{constant}x{factor:g}" for constant, factor in sorted(change.items()))
    return f"{name} {part} {limit} {said or 'as it is'}"


def measured(
    kept: Kept, data: Path | None, name: str, part: str, limit: int, change: Change
) -> tuple[list[str], Floats]:
    """Pictures and clicks: from the file, or clicked now if ``data`` is given. KeyError when neither."""
    row = kept.get(name, part, limit, change)
    if row is None:
        if data is None:
            raise KeyError(f"not measured yet: {_key(name, part, limit, change)}")
        kept.add(name, part, limit, change, *clicks_of(targets_of(data, name, part, limit), change))
        row = kept.get(name, part, limit, change)
        assert row is not None
    return row["pictures"], np.array(row["clicks"], np.float64)


def paired(
    pictures: Sequence[Sequence[str]], differences: Sequence[Floats], *, share: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference with its bootstrap interval over pictures; of several sets each counts alike."""
    rng = np.random.default_rng(seed)
    draws = np.zeros(2000)
    for names, values in zip(pictures, differences, strict=True):
        kinds, index = np.unique(np.asarray(names), return_inverse=True)
        sums = np.bincount(index, values, minlength=len(kinds))
        counts = np.bincount(index, minlength=len(kinds)).astype(np.float64)
        weights = rng.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=len(draws))
        draws += (weights @ sums) / (weights @ counts) / len(pictures)
    low, high = np.percentile(draws, [50 * (1 - share), 50 * (1 + share)])
    return float(np.mean([values.mean() for values in differences])), float(low), float(high)


def clear_gain(pictures: Sequence[Sequence[str]], differences: Sequence[Floats]) -> bool:
    """Below 0 with its whole 99 % interval: 80 changes are looked at, so 95 % would find some by chance."""
    return paired(pictures, differences, share=0.99)[2] < 0


def chosen(kept: Kept) -> dict[str, float]:
    """Of each constant the change with the fewest clicks on the parts to choose by, where it is a clear
    gain.
    """
    found: dict[str, float] = {}
    for constant in CONSTANTS:
        gains = []
        for factor in FACTORS:
            pictures, differences = _differences(kept, {constant: factor})
            if clear_gain(pictures, differences):
                gains.append((float(np.mean([d.mean() for d in differences])), factor))
        if gains:
            found[constant] = min(gains)[1]
    return found


def _differences(kept: Kept, change: Change) -> tuple[list[list[str]], list[Floats]]:
    """Pictures and differences in clicks of each set to choose by. KeyError where one was not measured."""
    pictures, differences = [], []
    for name, limit in CHOOSE.items():
        names, before = measured(kept, None, name, "choose", limit, {})
        _, after = measured(kept, None, name, "choose", limit, change)
        pictures.append(names)
        differences.append(after - before)
    return pictures, differences


def table(kept: Kept) -> str:
    """The whole table in Markdown: a row a constant, a column a factor. The mean of the sets, each counting
    alike, with its interval; then each set by itself.
    """
    lines = []
    for name, limit in CHOOSE.items():
        pictures, clicks = measured(kept, None, name, "choose", limit, {})
        never = float((clicks == MAX_CLICKS).mean())
        lines.append(
            f"{name}: {clicks.mean():.2f} clicks, {never:.0%} at {MAX_CLICKS}, {len(clicks)} objects on "
            f"{len(set(pictures))} pictures"
        )
    lines += ["", "| constant | value | " + " | ".join(f"× {factor:g}" for factor in FACTORS) + " |"]
    lines.append("| --- " * (2 + len(FACTORS)) + "|")
    for constant, module in CONSTANTS.items():
        cells = [f"`{constant}`", f"{getattr(module, constant):g}"]
        for factor in FACTORS:
            pictures, differences = _differences(kept, {constant: factor})
            value, low, high = paired(pictures, differences)
            bold = "**" if low > 0 or high < 0 else ""
            each = ", ".join(f"{d.mean():+.1f}" for d in differences)
            cells.append(f"{bold}{value:+.2f}{bold} ({low:+.2f} to {high:+.2f}); {each}".replace("-", "−"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for step in ("measure", "table", "check"):
        sub = steps.add_parser(step)
        if step != "table":
            sub.add_argument("data", type=Path)
        sub.add_argument("--kept", type=Path, required=True, help="file of results, to go on with")
        if step == "measure":
            sub.add_argument("--only", nargs="+", default=list(CHOOSE), choices=list(CHOOSE))
        if step == "check":
            sub.add_argument("--limit", type=int, default=40, help="objects of each held-back part")
            sub.add_argument("--change", nargs="*", help="CONSTANT=FACTOR instead of what was chosen")
    asked = parser.parse_args()
    kept = Kept(asked.kept)
    if asked.step == "table":
        print(table(kept))
    elif asked.step == "measure":
        for change in ({}, *({name: factor} for name in CONSTANTS for factor in FACTORS)):
            for name in asked.only:
                measured(kept, asked.data, name, "choose", CHOOSE[name], change)
            print(change or "as it is", flush=True)
    else:
        change = chosen(kept) if asked.change is None else {}
        for pair in asked.change or ():
            name, _, factor = pair.partition("=")
            change[name] = float(factor)
        check(kept, asked.data, change, asked.limit)


def check(kept: Kept, data: Path, change: Change, limit: int) -> None:
    """Clicks before and after on the held-back parts; one line of JSON each."""
    print(json.dumps({"change": dict(change)}))
    if not change:
        return
    for name in HELD_BACK:
        names, before = measured(kept, data, name, "report", limit, {})
        _, after = measured(kept, data, name, "report", limit, change)
        row = {
            "set": name,
            "objects": len(names),
            "pictures": len(set(names)),
            "clicks": [round(float(before.mean()), 2), round(float(after.mean()), 2)],
            "never": [round(float((v == MAX_CLICKS).mean()), 3) for v in (before, after)],
            "difference": [round(v, 2) for v in paired([names], [after - before])],
            "fewer, more": [int((after < before).sum()), int((after > before).sum())],
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
