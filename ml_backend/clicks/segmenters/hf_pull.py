"""Fetch a model of transformers from the hub into a folder, on somebody's command and never by itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ml_backend.clicks.segmenters.hf_models import check_folder
from ml_backend.errors import ModelError
from ml_backend.extras import require_extra

__all__ = ["pull_hf_model"]

# No pickles: safetensors hold numbers only.
_FILES = ("*.json", "*.safetensors", "README.md")


def pull_hf_model(name: str, folder: Path, *, revision: str = "") -> Path:
    """Download config, image processor, card and weights of ``name`` into ``folder``; returns it.

    What is there already is not fetched again, an interrupted download goes on. Every large file is checked
    by its hash. Raises ModelError: offline, unknown, not allowed, damaged, or no model that takes clicks.
    """
    require_extra("hf")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        snapshot_download(name, revision=revision or None, local_dir=folder, allow_patterns=list(_FILES))
        listed = HfApi().model_info(name, revision=revision or None, files_metadata=True).siblings or []
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
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"{name} could not be fetched ({line})",
            field="name",
            hint=f"Run the command again to go on. Without internet, copy its files into {folder}",
        ) from error
    for file in listed:
        path = folder / file.rfilename
        if file.lfs is not None and path.is_file() and _sha256(path) != file.lfs.sha256:
            path.unlink()
            raise ModelError(
                f"{file.rfilename} of {name} came damaged",
                field="name",
                hint="It was deleted; run the command again",
            )
    return check_folder(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
