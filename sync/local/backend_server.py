"""The backend as a process: its command and environment, the same for ``groundswell up`` and ``serve``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ml_backend.config_file import CONFIG_VARIABLE, PREFIX
from ml_backend.devices import TUNED
from sync.settings import Settings

__all__ = ["as_environment", "backend_command"]


def backend_command(data_dir: Path, host: str, port: int, *, threads: int = 8) -> list[str]:
    """gunicorn with one worker process: models and embeddings are shared by its threads."""
    return [
        sys.executable,
        "-m",
        "gunicorn",
        "sync.web.wsgi:app",
        *("--bind", f"{host}:{port}", "--worker-class", "gthread"),
        *("--workers", "1", "--threads", str(threads), "--timeout", "120", "--graceful-timeout", "5"),
        # by default all servers of a user share one socket: each would take it from the one before
        *("--control-socket", str(data_dir / "backend.ctl")),
    ]


def as_environment(settings: Settings) -> dict[str, str]:
    """Environment of a process with these settings: each that differs from its default, as a variable.

    With the allocator settings that halve the time of image encoders on a CPU, unless set otherwise.
    """
    here = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env = {**TUNED, **here, CONFIG_VARIABLE: ""}  # what the settings file said is among the settings
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value != field.get_default(call_default_factory=True):
            env[f"{PREFIX}{name.upper()}"] = _as_text(value)
    return env


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value)
