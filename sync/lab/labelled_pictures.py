"""Pictures with known labels, of any kind: from a COCO file, or from a CSV file with columns file and
label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_backend.errors import BadInput
from ml_backend.examples import Example
from ml_backend.kinds.base import ProjectKind
from ml_backend.masks.coco import load_coco
from sync.projects.picture_groups import read_table

__all__ = ["LabelledPictures", "from_coco", "from_csv", "sample", "split_by_group"]


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """Pictures with their truth.

    Attributes
    ----------
    labels : names
    examples : one per picture; task ids count from 1
    group : per picture, which pictures belong together (series of one thing): never split between sides
    """

    labels: tuple[str, ...]
    examples: tuple[Example, ...]
    group: tuple[str, ...]


def from_coco(images: Path, coco: Path, kind: ProjectKind) -> LabelledPictures:
    """A COCO set as the examples of a kind. Raises BadInput for a file that cannot be used."""
    data = load_coco(images, coco)
    examples = []
    for i, picture in enumerate(data.images):
        drawn = [(data.categories[n], rle) for n, rle in zip(picture.label, picture.rle, strict=True)]
        number = {name: n for n, name in enumerate(data.categories)}
        if kind.tagged:
            tags = tuple(sorted(set(picture.label)))
            examples.append(Example(i + 1, picture.path, (), (), tags=tags))
            continue
        made = kind.to_instances(drawn)
        examples.append(
            Example(i + 1, picture.path, tuple(number[n] for n, _ in made), tuple(r for _, r in made))
        )
    return LabelledPictures(data.categories, tuple(examples), tuple(str(i) for i in range(len(examples))))


def from_csv(images: Path, table: Path, groups: Path | None = None) -> LabelledPictures:
    """Pictures with one label each.

    ``table`` has columns file and label, ``groups`` columns file and group; files are below ``images`` or
    beside the table. Raises BadInput naming the file and row.
    """
    rows = read_table(table, "label")
    group = dict(read_table(groups, "group")) if groups is not None else {}
    labels = tuple(sorted({label for _, label in rows}))
    examples = []
    for i, (name, label) in enumerate(rows):
        path = next(
            (p for p in (images / name, table.parent / name, images / Path(name).name) if p.is_file()), None
        )
        if path is None:
            raise BadInput(
                f"there is no picture {name}", field=f"{table.name}, row {i + 2}", hint="Check --images"
            )
        examples.append(Example(i + 1, path, (), (), tags=(labels.index(label),)))
    return LabelledPictures(
        labels, tuple(examples), tuple(group.get(name, f"alone {name}") for name, _ in rows)
    )


def sample(data: LabelledPictures, count: int, *, seed: int = 0) -> LabelledPictures:
    """So many of the pictures, drawn at random (all when there are fewer)."""
    size = min(count, len(data.examples))
    rows = np.sort(np.random.default_rng(seed).choice(len(data.examples), size, replace=False)).tolist()
    return LabelledPictures(
        data.labels, tuple(data.examples[i] for i in rows), tuple(data.group[i] for i in rows)
    )


def split_by_group(data: LabelledPictures, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows of the pool and of the test part, about ``share`` of the pictures; groups stay whole.

    Raises BadInput when one side would be empty.
    """
    names = sorted(set(data.group))
    order = np.random.default_rng([seed, 17]).permutation(len(names))
    test: set[str] = set()
    held, wanted = 0, share * len(data.examples)
    sizes: Mapping[str, int] = {name: data.group.count(name) for name in names}
    for i in order:
        if held >= wanted:
            break
        test.add(names[i])
        held += sizes[names[i]]
    sides: tuple[list[int], list[int]] = ([], [])
    for row, name in enumerate(data.group):
        sides[name in test].append(row)
    if not sides[0] or not sides[1]:
        raise BadInput(
            f"a test share of {share} leaves one side without pictures", field="test_fraction", hint="Try 0.3"
        )
    return sides
