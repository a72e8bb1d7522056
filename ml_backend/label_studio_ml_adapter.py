"""Groundswell as a model class of the ``label-studio-ml`` package (2.x).

For servers that already run that package's app::

    from label_studio_ml.api import init_app
    from ml_backend.label_studio_ml_adapter import GroundswellBackend

    app = init_app(model_class=GroundswellBackend, basic_auth_user="…", basic_auth_pass="…")

Settings are Groundswell's (``GROUNDSWELL_…``). Predictions and clicks work as in our own app
(``ml_backend.app``). The package has no routes for the pictures of review tasks and for metrics, and it does
not repeat an error in the status line. Needs the extra ``label-studio-ml``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from flask import has_request_context, request
from label_studio_ml.model import LabelStudioMLBase

from ml_backend.label_studio.protocol import ProjectKey, parse_project_key, project_key_of
from ml_backend.model import GroundswellModel
from ml_backend.services import Services
from ml_backend.settings import BackendSettings

__all__ = ["GroundswellBackend"]


class GroundswellBackend(LabelStudioMLBase):  # type: ignore[misc]
    """One project during one request. The package makes an instance for every request.

    ``services`` is shared by all instances of a process. It is made from the settings at the first request,
    unless it is set before.
    """

    services: Services | None = None
    _lock = threading.Lock()

    def setup(self) -> None:
        """Called by the package's constructor: find the project, and tell Label Studio the version."""
        self._model = GroundswellModel(self._shared(), self._key(), self._given_config())
        self.set("model_version", self._model.model_version)

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Sequence[dict[str, Any] | list[Any]]:
        """One entry per task: a prediction, or an empty list for a task that has none.

        Raises GroundswellError when nothing can be answered; the package answers 500 then, and Label Studio
        stores nothing.
        """
        return list(self._model.predict(tasks, context))

    def fit(self, event: str, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Leave a note for the worker, which does the training."""
        return self._model.fit(event)

    @classmethod
    def _shared(cls) -> Services:
        with cls._lock:
            if cls.services is None:
                cls.services = Services.from_settings(BackendSettings())
            return cls.services

    def _key(self) -> ProjectKey | None:
        """The project of the request. The package hands on its number only, so the body is read again."""
        if has_request_context():
            body = request.get_json(silent=True)
            project = body.get("project") if isinstance(body, Mapping) else None
            if isinstance(project, Mapping):
                return project_key_of(project)
            if project not in (None, ""):
                return parse_project_key(project)
        return parse_project_key(self.project_id) if self.project_id.isdigit() else None

    def _given_config(self) -> str:
        interface = getattr(self, "label_interface", None)
        return "" if interface is None else str(self.label_config or "")
