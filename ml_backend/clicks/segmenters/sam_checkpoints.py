"""Official SAM checkpoints: their addresses, and a download that can resume and is checked by hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from ml_backend.artifacts.files import storage_errors
from ml_backend.errors import BadInput, ModelError

__all__ = ["CHECKPOINTS", "Checkpoint", "find_checkpoint", "pull_checkpoint"]

_CHUNK = 1024**2
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published file: ``size`` in bytes, ``sha256`` hex."""

    name: str
    file: str
    size: int
    sha256: str
    base_url: str = "https://dl.fbaipublicfiles.com/segment_anything/"

    @property
    def url(self) -> str:
        return self.base_url + self.file


CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            "sam_vit_b",
            "sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        Checkpoint(
            "sam_vit_l",
            "sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        Checkpoint(
            "sam_vit_h",
            "sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    )
}


def find_checkpoint(name: str, *, mirror: str = "") -> Checkpoint:
    """A checkpoint by name; ``mirror`` (a base URL) replaces its own address. BadInput if it is unknown."""
    found = CHECKPOINTS.get(name)
    if found is None:
        raise BadInput(f"no checkpoint is called {name!r}", hint=f"Choose one of: {', '.join(CHECKPOINTS)}")
    return replace(found, base_url=mirror.rstrip("/") + "/") if mirror else found


def pull_checkpoint(
    checkpoint: Checkpoint, folder: Path, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Download into ``folder`` unless the right file is there; returns its path.

    An interrupted download leaves ``<file>.part`` and goes on from there. The file appears under its name
    only once its hash is right. Raises ModelError (offline, refused, wrong hash) and StorageError (disk
    full).
    """
    target = folder / checkpoint.file
    part = target.with_suffix(".pth.part")
    if target.exists():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == checkpoint.sha256:
                progress(checkpoint.size, checkpoint.size)
                return target
        target.unlink()  # a damaged copy
    with storage_errors(part):
        folder.mkdir(parents=True, exist_ok=True)
        problem = ""
        for _ in range(_ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            if before < checkpoint.size:
                problem = _fetch(checkpoint, part, progress)
            if part.exists() and part.stat().st_size >= checkpoint.size:
                break
            if problem and (part.stat().st_size if part.exists() else 0) <= before:
                break  # nothing came: trying again at once will not help
        else:
            problem = problem or "the connection broke again and again"
    have = part.stat().st_size if part.exists() else 0
    if have < checkpoint.size:
        raise ModelError(
            f"{checkpoint.url} could not be downloaded ({problem}); "
            f"{have} of {checkpoint.size} bytes are here",
            field=checkpoint.name,
            hint=f"Run the command again to go on. Without internet, copy {checkpoint.file} into {folder}",
        )
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != checkpoint.sha256:
        part.unlink()
        raise ModelError(
            f"{checkpoint.url} came with the hash {digest[:12]}…, expected {checkpoint.sha256[:12]}…",
            field=checkpoint.name,
            hint="The download was deleted; run the command again, or check the mirror",
        )
    os.replace(part, target)
    return target


def _fetch(checkpoint: Checkpoint, part: Path, progress: Callable[[int, int], None]) -> str:
    """One attempt, appending to the part on disk. Returns what went wrong; empty when nothing did."""
    have = part.stat().st_size if part.exists() else 0
    headers = (
        {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
        if have
        else {"Accept-Encoding": "identity"}
    )
    timeout = httpx.Timeout(30.0, connect=10.0)
    try:
        with httpx.stream(
            "GET", checkpoint.url, headers=headers, timeout=timeout, follow_redirects=True
        ) as reply:
            if reply.status_code == 416:  # what is here is longer than the file there
                part.unlink(missing_ok=True)
                return "the part on disk did not fit"
            if reply.status_code not in (200, 206):
                return f"HTTP {reply.status_code}"
            resumed = reply.status_code == 206
            done = have if resumed else 0
            with part.open("ab" if resumed else "wb") as file:
                for chunk in reply.iter_bytes(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    progress(done, checkpoint.size)
                    if done > checkpoint.size:
                        return "more bytes came than the file has"
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ""
