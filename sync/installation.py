"""What commands work on: settings, store and clients of a running installation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_backend.errors import BadInput
from sync.artifacts.opening import share_installation
from sync.local.effective_settings import effective_settings
from sync.review.review_project import installation_id
from sync.settings import Settings
from sync.store.database import Store
from sync.studio.protocol import StudioClient

if TYPE_CHECKING:
    from sync.rounds.progress import Progress
    from sync.rounds.project import OpenProject

__all__ = ["Installation", "effective_settings", "open_installation", "open_store", "settings_of_data"]


@dataclass(frozen=True, slots=True)
class Installation:
    """Settings, store, Label Studio, and the Label Studio of the review projects when it is another one."""

    settings: Settings
    store: Store
    studio: StudioClient
    review_studio: StudioClient | None

    def open(self, project_id: int, progress: Progress | None = None) -> OpenProject:
        """A registered project. Raises BadInput when it is not registered, BadLabelConfig when unusable."""
        from sync.rounds.project import open_project

        return open_project(
            self.settings,
            self.store,
            self.studio,
            project_id,
            review_studio=self.review_studio,
            progress=progress,
        )


def open_store(
    data_dir: Path | None, *, studio_url: str = "", api_key: str = "", create: bool = False
) -> tuple[Settings, Store]:
    """Settings and store, without calling Label Studio.

    Only with ``create`` a store is made where there is none: for commands that may be the first to run.
    Without it, BadInput says that there is no data.
    """
    settings = effective_settings(data_dir, studio_url=studio_url, api_key=api_key)
    if not create:
        _refuse_without_data(settings)
    store = Store(settings.database())
    if settings.artifacts_url:
        share_installation(store, settings.data_dir, installation_id)
    return settings, store


def settings_of_data(data_dir: Path | None) -> Settings:
    """Settings for what reads a data directory without opening its store; BadInput when there is no data."""
    settings = effective_settings(data_dir)
    _refuse_without_data(settings)
    return settings


def _refuse_without_data(settings: Settings) -> None:
    if settings.database_url.get_secret_value():
        return  # a store elsewhere, which says by itself when it is not there
    if not any((settings.data_dir / name).exists() for name in ("groundswell.db", "secrets.json")):
        raise BadInput(
            f"there is no Groundswell data in {settings.data_dir}",
            field="data_dir",
            hint="Run `groundswell up` and `groundswell init`, or give --data-dir (or GROUNDSWELL_DATA_DIR) "
            "the folder that they used",
        )


def open_installation(
    data_dir: Path | None, *, studio_url: str = "", api_key: str = "", create: bool = False
) -> Installation:
    """Everything a command that talks to Label Studio needs; ``create`` as for ``open_store``."""
    from sync.studio.client import Studio

    settings, store = open_store(data_dir, studio_url=studio_url, api_key=api_key, create=create)
    review = None
    if settings.review_url:
        review = Studio(settings.review_url, settings.review_token.get_secret_value())
    studio = Studio(settings.studio_url, settings.current_studio_token)
    return Installation(settings, store, studio, review)
