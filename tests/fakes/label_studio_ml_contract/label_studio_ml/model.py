"""The base class, as far as a model class can see it."""

from __future__ import annotations

from typing import Any

_KEPT: dict[tuple[str, str], str] = {}


class LabelStudioMLBase:
    """Made once per request, with the number of the project as text and the label config as XML."""

    INITIAL_MODEL_VERSION = "0.0.1"

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.use_label_config(label_config)
        if not self.get("model_version"):
            self.set("model_version", self.INITIAL_MODEL_VERSION)
        self.setup()

    def setup(self) -> None:
        """For model classes to override."""

    def use_label_config(self, label_config: str) -> None:
        self.label_interface = object()
        self.set("label_config", label_config)

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")

    @property
    def model_version(self) -> str | None:
        return self.get("model_version")

    def get(self, key: str) -> str | None:
        """What was kept for the project; all processes share it."""
        return _KEPT.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("only text can be kept")
        _KEPT[self.project_id, key] = value

    def set_extra_params(self, extra_params: Any) -> None:
        self.set("extra_params", extra_params)
