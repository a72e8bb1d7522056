"""What all pages share: settings, the backend's services, the store, and clients of Label Studio.

Store and clients are opened at their first use. So a backend whose database or Label Studio is away still
serves clicks and crops, and its pages say what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from flask import Flask

from ml_backend.services import Services
from sync.artifacts.opening import share_installation
from sync.review.review_project import installation_id
from sync.settings import Settings
from sync.store.database import Store
from sync.studio.protocol import StudioClient

__all__ = ["EXTENSION", "WebServices", "services_of"]

EXTENSION: Final = "groundswell-web"


class WebServices:
    """One of these serves all pages of a process; its parts may be used by several threads at once.

    Parameters
    ----------
    settings : those of the installation
    services : what the routes of the model share (pictures, crops, the signer of links)
    store, studio, review_studio : used instead of those that the settings name (tests)
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        *,
        store: Store | None = None,
        studio: StudioClient | None = None,
        review_studio: StudioClient | None = None,
    ) -> None:
        self.settings = settings
        self.services = services
        self._store = store
        self._studio = studio
        self._review_studio = review_studio
        self._lock = threading.Lock()
        self.answered = threading.Event()
        """set when an answer waits for the queue's thread"""

    @property
    def store(self) -> Store:
        """The installation's database. Raises StorageError when it cannot be opened."""
        with self._lock:
            if self._store is None:
                store = Store(self.settings.database())
                if self.settings.artifacts_url:
                    share_installation(store, self.settings.data_dir, installation_id)
                self._store = store
            return self._store

    @property
    def studio(self) -> StudioClient:
        """The main Label Studio. Raises StudioError without a usable token."""
        with self._lock:
            if self._studio is None:
                self._studio = _client(self.settings.studio_url, self.settings.current_studio_token)
            return self._studio

    @property
    def review_studio(self) -> StudioClient:
        """The Label Studio of the review projects: the main one unless ``review_url`` names another."""
        if not self.settings.review_url and self._review_studio is None:
            return self.studio
        with self._lock:
            if self._review_studio is None:
                token = self.settings.review_token.get_secret_value()
                self._review_studio = _client(self.settings.review_url, lambda: token)
            return self._review_studio


def _client(url: str, token: Callable[[], str]) -> StudioClient:
    from sync.studio.client import Studio

    return Studio(url, token, attempts=2)  # somebody waits at a page


def services_of(app: Flask) -> WebServices:
    """The services that ``create_web_app`` gave to an app."""
    found = app.extensions[EXTENSION]
    assert isinstance(found, WebServices)
    return found
