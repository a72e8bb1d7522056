"""Our backend beside the real Label Studio, in a thread of the test process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
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


@pytest.fixture
def site(studio: Studio, tmp_path: Path) -> Iterator[Site]:
    """Label Studio and backend, connected by settings of a fresh data directory."""
    from ml_backend.app import create_app

    port = free_port()
    settings = Settings(
        data_dir=tmp_path / "data",
        studio_url=studio.url,
        studio_token=LOGIN.token,
        backend_url=f"http://127.0.0.1:{port}",
        webhook_secret="a webhook secret",
        signing_key="a signing key",
    )
    server = make_server("127.0.0.1", port, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Site(settings, studio)
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)
