"""Crops of questions: rendered ahead, addressed by signed links of the backend."""

from __future__ import annotations

from ml_backend.errors import BadInput
from ml_backend.images.crops import CropStore
from ml_backend.images.signed_links import crop_url
from ml_backend.images.store import ImageStore
from sync.review.review_project import Question
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
        """Address of the crop. Raises BadImage or StudioError when the image cannot be read any more."""
        with self._db.read() as session:
            task = session.get(TaskRecord, question.task_id)
        if task is None:
            raise BadInput(f"task {question.task_id} is gone", field="question", hint="Pull again")
        image = self._images.get(task.image, task_id=task.id, project_id=task.project_id)
        self._crops.ensure(self._db.id, question.instance, image, question.rle)
        return crop_url(self._settings, self._db.id, question.instance)
