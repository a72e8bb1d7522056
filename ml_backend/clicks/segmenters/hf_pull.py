"""Fetch a model of transformers from the hub into a folder, on somebody's command and never by itself.

The hub's answer lists the files of one commit with their hashes: sha256 for large files, git's blob id for
small ones. Files are fetched into ``<folder>.part``, where a broken download goes on later, and appear in the
folder only after their hashes were checked. No hash is written down here: what the hub says over TLS counts.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ml_backend.artifacts.files import storage_errors
from ml_backend.clicks.segmenters.hf_models import check_folder
from ml_backend.errors import GroundswellError, ModelError
from ml_backend.extras import require_extra

__all__ = ["PART", "pull_hf_model"]

PART = ".part"
"""Ending of the folder that an unfinished download is in."""

_ANSWER_S = 30.0
"""for the list of files; by itself the hub's client waits for ever. The files have limits of their own."""

# No pickles: safetensors hold numbers only.
_FILES = ("*.json", "*.safetensors", "README.md")


def pull_hf_model(name: str, folder: Path, *, revision: str = "") -> Path:
    """Download config, image processor, card and weights of ``name`` into ``folder``; returns it.

    What is there already is not fetched again, an interrupted download goes on. Every file is checked by the
    hash that the hub gives. Raises ModelError: offline, unknown, not allowed, damaged, or no model that takes
    clicks; StorageError when the disk is full.
    """
    require_extra("hf")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    part = folder.with_name(folder.name + PART)
    try:
        hub = HfApi()
        listed = hub.model_info(name, revision=revision or None, files_metadata=True, timeout=_ANSWER_S)
        wanted = _wanted(listed.siblings or [], name, folder)
        if all(_is_whole(folder / file.rfilename, file) for file in wanted):
            return check_folder(folder)
        with storage_errors(part):
            for file in wanted:
                hub.hf_hub_download(name, file.rfilename, revision=listed.sha, local_dir=part)
    except GroundswellError:
        raise
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is given only to people who accepted its licence",
            field="name",
            hint="Accept it on the model's page, make a token there, and set HF_TOKEN",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"the hub has no {name}" + (f" at revision {revision}" if revision else ""),
            field="name",
            hint="Check the spelling (owner/name). Private models need HF_TOKEN",
        ) from error
    except Exception as error:  # httpx, the hub's own errors and the file system's
        line = _without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
        raise ModelError(
            f"{name} could not be fetched ({line})",
            field="name",
            hint=f"Run the command again to go on. Without internet, copy its files into {folder}",
        ) from error
    _check(wanted, part, name)
    check_folder(part)
    with storage_errors(folder):
        _publish(wanted, part, folder)
    return check_folder(folder)


def _without_secrets(line: str) -> str:
    """A line without what addresses in it hold beside the place: passwords, signatures."""
    return re.sub(r"(://[^\s'\"?#]*)[?#][^\s'\"]*", r"\1", re.sub(r"://[^\s/'\"]*@", "://", line))


def _wanted(listed: Sequence[Any], name: str, folder: Path) -> list[Any]:
    """The files to fetch. ModelError when one would be written outside of the folder."""
    wanted = [file for file in listed if any(fnmatch(file.rfilename, pattern) for pattern in _FILES)]
    root = folder.resolve()
    for file in wanted:
        if not (root / file.rfilename).resolve().is_relative_to(root):
            raise ModelError(
                f"{name} lists the file {file.rfilename!r}, which lies outside of its folder",
                field="name",
                hint="Do not use this model: its list of files is wrong or made to do harm",
            )
    return wanted


def _check(wanted: Sequence[Any], part: Path, name: str) -> None:
    for file in wanted:
        path = part / file.rfilename
        if not _is_whole(path, file):
            path.unlink(missing_ok=True)
            raise ModelError(
                f"{file.rfilename} of {name} came damaged",
                field="name",
                hint="It was deleted; run the command again",
            )


def _is_whole(path: Path, listed: Any) -> bool:
    """Whether a file is the one that the hub lists: by sha256, or by the hash that git gives small files."""
    if not path.is_file():
        return False
    if listed.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == str(listed.lfs.sha256)
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return blob.hexdigest() == str(listed.blob_id)


def _publish(wanted: Sequence[Any], part: Path, folder: Path) -> None:
    """Move the checked files into the folder; config.json last, because a folder counts from it on."""
    for file in sorted(wanted, key=lambda file: file.rfilename == "config.json"):
        target = folder / file.rfilename
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part / file.rfilename, target)
    shutil.rmtree(part)
