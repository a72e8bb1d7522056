"""Pictures that a person gives: which files are pictures, what they are called, and which are new.

Every picture gets a *name*: its path relative to the folder that was given, with ``/`` between the parts.
Names are unique in a project. They stay with the task (``PATH_FIELD``), so that an export can name the file a
mask belongs to.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ml_backend.errors import BadImage, BadInput

__all__ = [
    "IMAGE_SUFFIXES",
    "Comparison",
    "Held",
    "Picture",
    "compare_pictures",
    "content_digest",
    "find_images",
    "name_pictures",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"})
"""what browsers show"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that was given. Two pictures with the same ``identity`` show the same thing.

    The identity is the digest of the content for uploads and the address for pictures served from a folder.
    """

    path: Path
    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class Held:
    """A picture that the project holds already. ``name`` and ``identity`` are "" where they are unknown.

    ``file_name`` is the last part of its address as Label Studio cleaned it: all that is known of pictures
    added by hand or by versions of Groundswell that kept no names.
    """

    name: str
    identity: str
    file_name: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is to be done about given pictures.

    ``new`` is missing in the project and has a name that is free there; ``renamed`` is the part of it whose
    own name was taken by another picture, under the new name; ``assumed`` is taken to be there because of its
    file name alone.
    """

    new: tuple[Picture, ...]
    renamed: tuple[Picture, ...]
    assumed: tuple[Picture, ...]


def find_images(images: Path | Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Readable pictures, and the files that only look like pictures, each with the reason.

    ``images`` is a folder, searched with its subfolders, or the pictures themselves. Raises BadInput when the
    folder is missing, BadImage when there is no picture at all.
    """
    if not isinstance(images, Path):
        return _readable(images, "the list")
    if not images.is_dir():
        raise BadInput(
            f"{images} is no folder", field="images", hint="Give the folder that holds the pictures"
        )
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return _readable(files, str(images))


def name_pictures(
    paths: Sequence[Path], folder: Path | None, identity: Callable[[Path], str]
) -> list[Picture]:
    """The pictures with their names, relative to ``folder`` (None: to the deepest folder common to all)."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    if folder is None:
        folder = Path(os.path.commonpath([path.parent for path in absolute]))
    base = Path(os.path.abspath(folder))
    return [
        Picture(path, at.relative_to(base).as_posix(), identity(path))
        for path, at in zip(paths, absolute, strict=True)
    ]


def content_digest(path: Path) -> str:
    """32 hexadecimal digits that follow from the bytes of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def compare_pictures(
    given: Sequence[Picture], held: Iterable[Held], *, clean: Callable[[str], str]
) -> Comparison:
    """Which of the given pictures the project lacks.

    Each held picture stands for one given picture: first for that of the same name and identity, then for one
    of the same identity (its folder was renamed, or a folder above it is given now), and, where its identity
    is unknown, for one of the same file name. ``clean`` writes a file name as Label Studio does.
    """
    held = list(held)
    same = Counter((one.name, one.identity) for one in held if one.identity)
    missing = []
    for picture in given:
        names = (picture.name, _other_name(picture))
        found = next((name for name in names if same[name, picture.identity]), None)
        if found is None:
            missing.append(picture)
        else:
            same[found, picture.identity] -= 1
    moved: Counter[str] = Counter()
    for (_, identity), count in same.items():
        moved[identity] += count
    missing, _ = _take(missing, moved, lambda picture: picture.identity)
    unknown = Counter(one.file_name for one in held if not one.identity)
    missing, assumed = _take(missing, unknown, lambda picture: clean(picture.path.name))
    taken = {one.name for one in held}
    new, renamed = [], []
    for picture in missing:
        if picture.name in taken:
            picture = replace(picture, name=_other_name(picture))
            renamed.append(picture)
        taken.add(picture.name)
        new.append(picture)
    return Comparison(tuple(new), tuple(renamed), tuple(assumed))


def _take(
    pictures: Sequence[Picture], there: Counter[str], key: Callable[[Picture], str]
) -> tuple[list[Picture], list[Picture]]:
    """Split pictures into those without and those with an entry in ``there``; each entry is used once."""
    without, with_entry = [], []
    for picture in pictures:
        if there[key(picture)] > 0:
            there[key(picture)] -= 1
            with_entry.append(picture)
        else:
            without.append(picture)
    return without, with_entry


def _other_name(picture: Picture) -> str:
    path = PurePosixPath(picture.name)
    part = hashlib.blake2b(picture.identity.encode(), digest_size=4).hexdigest()
    return path.with_name(f"{path.stem}-{part}{path.suffix}").as_posix()


def _readable(files: Sequence[Path], where: str) -> tuple[list[Path], list[str]]:
    from PIL import Image, UnidentifiedImageError

    bomb = Image.DecompressionBombError  # as it says, or a picture that nobody could label either
    good: list[Path] = []
    refused: list[str] = []
    for path in files:
        if not path.is_file():
            continue
        try:
            with Image.open(path) as image:
                image.verify()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, bomb) as error:
            refused.append(f"{path}: {error}")
            continue
        good.append(path)
    if not good:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        why = f"; unreadable: {refused[0]}" if refused else ""
        raise BadImage(f"no pictures in {where}{why}", field="images", hint=f"Looked for {known}")
    return good, refused
