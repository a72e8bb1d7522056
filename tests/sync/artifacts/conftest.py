"""Object stores to share files in: a folder, memory, and an S3 server in a process of its own."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from tests.s3 import new_bucket


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket."""
    return new_bucket(s3_server, monkeypatch)


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for objects, of each kind."""
    if request.param == "folder":
        return str(tmp_path / "objects")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return str(request.getfixturevalue("s3_url"))


def assert_no_secret(text: str) -> None:
    """Whether a text shows none of the credentials that are in the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ.get(name, "-") not in text
