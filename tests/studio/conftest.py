"""Our backend beside the real Label Studio, in a thread of the test process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from sync.settings import Settings
from sync.studio.client import Studio
from tests.conftest import LOGIN, free_port


@dataclass(frozen=True)
class Site:
    """A real Label Studio, our backend, and the settings that join them."""

    settings: Settings
    studio: Studio

    @property
    def basic_auth(self) -> tuple[str, str]:
        """What callers of the backend must give."""
        return self.settings.basic_auth_user, self.settings.basic_auth_pass.get_secret_value()


@contextmanager
def serve_backend(settings: Settings, port: int = 0) -> Iterator[str]:
    """Our backend in a thread, on a free port unless one is given; gives its address."""
    from ml_backend.app import create_app

    server = make_server("127.0.0.1", port or free_port(), create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


@pytest.fixture
def site(studio: Studio, tmp_path: Path) -> Iterator[Site]:
    """Label Studio and backend, connected by settings of a fresh data directory."""
    port = free_port()
    settings = Settings(
        data_dir=tmp_path / "data",
        studio_url=studio.url,
        studio_token=LOGIN.token,
        backend_url=f"http://127.0.0.1:{port}",
        webhook_secret="a webhook secret",
        signing_key="a signing key",
        basic_auth_user="groundswell",
        basic_auth_pass="a backend password",
    )
    with serve_backend(settings, port):
        yield Site(settings, studio)
