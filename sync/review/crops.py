"""Crops of questions: rendered before they are asked, and reached by signed links of the backend."""

from __future__ import annotations

from ml_backend.errors import BadImage
from ml_backend.images.crops import CropStore
from ml_backend.images.signed_links import crop_url
from ml_backend.images.store import ImageStore
from sync.review.question import Question
from sync.settings import Settings
from sync.store.project_store import ProjectStore
from sync.store.tables import TaskRecord

__all__ = ["CropLinks"]


class CropLinks:
    """Signed addresses of the crops of one project; each crop is rendered when its address is first asked."""

    def __init__(self, db: ProjectStore, settings: Settings, images: ImageStore) -> None:
        self._db = db
        self._settings = settings
        self._images = images
        self._crops = CropStore(settings.data_dir, images, size_px=settings.crop_size_px)

    def url(self, question: Question) -> str:
        """Address of the crop. Raises BadImage when the picture cannot be read, StudioError.

        The picture is opened only while there is no crop of it.
        """
        if not self._crops.path(self._db.id, question.instance).exists():
            with self._db.read() as session:
                task = session.get(TaskRecord, question.task_id)
            if task is None:
                raise BadImage(f"task {question.task_id} was deleted", field="question.task_id")
            image = self._images.get(task.image, task_id=task.id, project_id=self._db.id)
            self._crops.ensure(self._db.id, question.instance, image, question.rle)
        return crop_url(self._settings, self._db.id, question.instance)
