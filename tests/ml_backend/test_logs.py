"""Logs: two formats, and no secret in either."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_backend.log_fields import set_log_fields
from ml_backend.logs import set_up_logging
from ml_backend.settings import BackendSettings
from sync.settings import Settings

SECRETS = {
    "studio_token": "5f3e9d2c8b7a61504f3e",
    "webhook_secret": 'quoted "and" ärgerlich',
    "signing_key": "a-signing-key",
    "basic_auth_user": "ls",
    "basic_auth_pass": "pa\\ss\nword",
    "database_url": "postgresql+psycopg://me:hard%20to%20guess@db/groundswell",
}


@pytest.fixture
def logged() -> Iterator[Callable[..., io.StringIO]]:
    root = logging.getLogger()
    before, level, httpx_level = root.handlers[:], root.level, logging.getLogger("httpx").level

    def start(settings: BackendSettings, **options: Any) -> io.StringIO:
        stream = io.StringIO()
        set_up_logging(settings, stream=stream, **options)
        return stream

    yield start
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("httpx").setLevel(httpx_level)


def test_json_lines(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(BackendSettings(log_format="json"))
    logging.getLogger("here").warning("task %s: ü\nnext", 7)
    logging.getLogger("here").info("fine")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("here").exception("it failed")
    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("WARNING", "here", "task 7: ü\nnext")
    assert first["time"]
    assert second["message"] == "fine"
    assert "ValueError: broken" in third["exc_info"]


def test_json_lines_say_of_which_project_round_and_task_they_speak(
    logged: Callable[..., io.StringIO],
) -> None:
    stream = logged(BackendSettings(log_format="json"))
    log = logging.getLogger("here")

    def fields(message: str, *values: object) -> dict[str, int]:
        log.warning(message, *values)
        line = json.loads(stream.getvalue().splitlines()[-1])
        return {name: line[name] for name in ("project", "round", "task") if name in line}

    set_log_fields(project=None, round=None)  # another test took a look in this thread
    try:
        assert fields("nothing") == {}
        assert fields("project %s task %s: no picture", 3, 12) == {"project": 3, "task": 12}
        set_log_fields(project=5, round=2)
        assert fields("reading") == {"project": 5, "round": 2}
        assert fields("project 5: slow") == {"project": 5, "round": 2}
        assert fields("project 6 task 1") == {"project": 6, "task": 1}, "not the round of project 5"
        assert fields("round 3: begins; the one before, round 2, ends") == {"project": 5, "round": 3}
        assert fields("review task 8, sub-task 4, tasks 7") == {"project": 5, "round": 2}
        set_log_fields(project=None, round=None)
        assert fields("nothing") == {}
    finally:
        set_log_fields(project=None, round=None)


def test_text_lines_and_levels(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(BackendSettings(), level="WARNING")
    logging.getLogger("here").info("not this")
    logging.getLogger("here").warning("but this")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("WARNING here: but this")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_secret_reaches_a_log(logged: Callable[..., io.StringIO], log_format: str) -> None:
    stream = logged(Settings(log_format=log_format, **SECRETS))  # type: ignore[arg-type]
    log = logging.getLogger("here")
    secrets = [value for name, value in SECRETS.items() if name != "basic_auth_user"]
    for secret in (*secrets, "hard to guess"):
        log.warning("plain %s, quoted %r, in a list %s", secret, secret, [secret])
        try:
            raise RuntimeError(f"cannot use {secret}")
        except RuntimeError:
            log.exception("failed")
    headers = {
        "Authorization": "Token 0123456789abcdef",
        "X": "Bearer eyJh.bGci.OiJI",
        "Y": "Basic bHM6cHc9PQ==",
    }
    log.warning("headers %s", headers)
    log.warning("GET https://bucket.test/a.png?X-Amz-Signature=abc123&part=1&sig=ZZZZ")
    text = stream.getvalue()
    hidden = [*secrets, "hard to guess", "hard%20to%20guess", "0123456789abcdef", "eyJh.bGci", "bHM6cHc9PQ"]
    for secret in (*hidden, "abc123", "ZZZZ"):
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            assert form not in text
    assert "part=1" in text
    assert "failed" in text


def test_the_backend_logs_in_the_format_of_its_settings(tmp_path: Path) -> None:
    code = (
        "from ml_backend._wsgi import app; c = app.test_client();"
        "c.post('/predict', json={'tasks': [], 'project': '9.1'},"
        " headers={'Authorization': 'Basic bHM6dGhlLXBhc3N3b3Jk'})"
    )
    env = {
        **os.environ,
        "GROUNDSWELL_DATA_DIR": str(tmp_path),
        "GROUNDSWELL_LOG_FORMAT": "json",
        "GROUNDSWELL_BASIC_AUTH_USER": "ls",
        "GROUNDSWELL_BASIC_AUTH_PASS": "the-password",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (line,) = (json.loads(x) for x in done.stderr.splitlines())
    assert line["logger"] == "ml_backend.app"
    assert "project 9 is not known" in line["message"]
    assert "the-password" not in done.stderr
