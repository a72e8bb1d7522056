"""Pictures of the review page: signed addresses, and the files behind them, made when first asked for.

Addresses begin with "/", so that they work through any proxy. They are signed for one invite and hold for a
day or two, and no longer than the invite does: once it is withdrawn, they open nothing. They stay the same
for that long, so that browsers keep the pictures.
"""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from PIL import Image
from sqlalchemy import select

from ml_backend.artifacts.files import write_atomic
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.errors import BadImage
from ml_backend.images.crops import render_crop
from ml_backend.images.signed_links import LinkSigner
from ml_backend.images.store import ImageRef
from sync.store.database import utc_now
from sync.store.review_tables import InviteRecord
from sync.store.tables import QuestionRecord, TaskRecord
from sync.web.access.shared import WebServices
from sync.web.review.sessions import Person, what_is_wrong

__all__ = ["Pictures"]

_DAY_S: Final = 24 * 3600
_CONTEXT: Final = 1.6
"""margin around the mask as a share of its longer side: about four times the mask is seen"""
_CONTEXT_PX: Final = 1024
_WHOLE_PX: Final = 1280
_QUALITY: Final = 88


class Pictures:
    """Addresses and files of crops, wider cuts and whole pictures."""

    def __init__(self, web: WebServices) -> None:
        self._web = web
        self._signer = web.services.signer

    def crop(self, person: Person, instance: str) -> str:
        """Address of the crop of a mask."""
        return _signed(self._signer, person, f"/review/pictures/crop/{person.project_id}/{instance}.jpg")

    def context(self, person: Person, instance: str) -> str:
        """Address of the wider cut with the outline of the mask."""
        return _signed(self._signer, person, f"/review/pictures/context/{person.project_id}/{instance}.jpg")

    def whole(self, person: Person, task_id: int) -> str:
        """Address of the picture of a task, made smaller."""
        return _signed(self._signer, person, f"/review/pictures/whole/{person.project_id}/{task_id}.jpg")

    def is_open(self, path: str, invite: str, signature: str, expires: str) -> bool:
        """Whether we made this address for this invite, and both still hold. Raises StorageError."""
        if not expires or not self._signer.verify(_bound(path, invite), signature, expires):
            return False
        with self._web.store.read() as session:
            return not what_is_wrong(session.get(InviteRecord, invite), utc_now())

    def crop_file(self, project_id: int, instance: str) -> Path:
        """The crop of a mask, or of an example. Raises BadImage when there is none, StorageError."""
        found = self._web.services.crops.find(project_id, instance)
        if found is None:
            raise BadImage(f"there is no crop {instance}", field="instance")
        return found

    def context_file(self, project_id: int, instance: str) -> Path:
        """The wider cut of a mask. Raises BadImage when there is no such mask or picture, StudioError."""
        path = self._web.services.crops.path(project_id, f"context-{instance}")
        if not path.exists():
            with self._web.store.read() as session:
                found = session.scalars(
                    select(QuestionRecord)
                    .where(QuestionRecord.project_id == project_id, QuestionRecord.instance == instance)
                    .limit(1)
                ).first()
                task = None if found is None else session.get(TaskRecord, found.task_id)
            if found is None or task is None:
                raise BadImage(f"nobody is asked about {instance}", field="instance")
            pixels = self._web.services.images.pixels(self._image(task))
            picture = render_crop(pixels, found.rle, size_px=_CONTEXT_PX, context=_CONTEXT)
            write_atomic(path, picture)
        return path

    def whole_file(self, project_id: int, task_id: int) -> Path:
        """The picture of a task, at most 1280 pixels long. Raises BadImage, StudioError."""
        with self._web.store.read() as session:
            task = session.get(TaskRecord, task_id)
        if task is None or task.project_id != project_id:
            raise BadImage(f"project {project_id} has no task {task_id}", field="task")
        digest = hashlib.sha256(task.image.encode()).hexdigest()[:12]
        path = ProjectPaths(self._web.settings.data_dir, project_id).crops / f"whole-{task_id}-{digest}.jpg"
        if not path.exists():
            picture = Image.fromarray(self._web.services.images.pixels(self._image(task)))
            picture.thumbnail((_WHOLE_PX, _WHOLE_PX), Image.Resampling.LANCZOS)
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=_QUALITY)
            write_atomic(path, file.getvalue())
        return path

    def _image(self, task: TaskRecord) -> ImageRef:
        return self._web.services.images.get(task.image, task_id=task.id, project_id=task.project_id)


def _signed(signer: LinkSigner, person: Person, path: str) -> str:
    until = (int(time.time()) // _DAY_S + 2) * _DAY_S
    bound = _bound(path, person.invite)
    return f"{bound}&{signer.sign(bound, expires_at=until)}"


def _bound(path: str, invite: str) -> str:
    return f"{path}?for={quote(invite, safe='')}"
