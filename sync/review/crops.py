"""Crops of questions: rendered ahead, addressed by signed links of the backend."""

from __future__ import annotations

from ml_backend.errors import BadInput
from ml_backend.images.crops import CropStore
from ml_backend.images.signed_links import crop_url
from sync.review.review_project import Question
from sync.rounds.project import Project
from sync.store.tables import TaskRecord

__all__ = ["CropLinks"]


class CropLinks:
    """Signed addresses of the crops of one project; each crop is rendered when its address is first asked."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._crops = CropStore(
            project.settings.data_dir, project.images, size_px=project.settings.crop_size_px
        )

    def url(self, question: Question) -> str:
        """Address of the crop. Raises BadImage or StudioError when the image cannot be read any more."""
        with self._project.read() as session:
            task = session.get(TaskRecord, question.task_id)
        if task is None:
            raise BadInput(f"task {question.task_id} is gone", field="question", hint="Pull again")
        image = self._project.images.get(task.image, task_id=task.id)
        self._crops.ensure(self._project.id, question.instance, image, question.rle)
        return crop_url(self._project.settings, self._project.id, question.instance)
