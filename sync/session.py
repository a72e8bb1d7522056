"""What commands open: settings, store and clients of a running installation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sync.settings import Settings
from sync.store import Store
from sync.studio_base import StudioClient
from sync.terminal import effective_settings

__all__ = ["Session", "open_session", "open_store"]


@dataclass(frozen=True, slots=True)
class Session:
    """Settings, store, Label Studio, and the Label Studio of the review projects when it is another one."""

    settings: Settings
    store: Store
    studio: StudioClient
    review_studio: StudioClient | None


def open_store(data_dir: Path | None, *, studio_url: str = "", api_key: str = "") -> tuple[Settings, Store]:
    """Settings and store, without calling Label Studio."""
    settings = effective_settings(data_dir, studio_url=studio_url, api_key=api_key)
    return settings, Store(settings.database())


def open_session(data_dir: Path | None, *, studio_url: str = "", api_key: str = "") -> Session:
    """Everything a command that talks to Label Studio needs."""
    from sync.studio import Studio

    settings, store = open_store(data_dir, studio_url=studio_url, api_key=api_key)
    review = None
    if settings.review_url:
        review = Studio(settings.review_url, settings.review_token.get_secret_value())
    studio = Studio(settings.studio_url, settings.studio_token.get_secret_value())
    return Session(settings, store, studio, review)
