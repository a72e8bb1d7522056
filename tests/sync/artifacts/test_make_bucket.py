"""The program of docker/scale.yml that makes the bucket."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from sync.artifacts.objects import open_objects
from tests.sync.artifacts.conftest import assert_no_secret

PROGRAM = Path(__file__).resolve().parents[3] / "docker" / "make_bucket.py"


def _main() -> Callable[[], int]:
    main: Callable[[], int] = runpy.run_path(str(PROGRAM))["main"]
    return main


def test_it_makes_the_bucket_once_and_leaves_what_is_there(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = s3_url.replace("s3://b", "s3://new")
    monkeypatch.setenv("GROUNDSWELL_ARTIFACTS_URL", url)
    assert _main()() == 0
    (tmp_path / "file").write_bytes(b"x")
    written = open_objects(url).upload(tmp_path / "file", "kept")
    assert _main()() == 0
    open_objects(url).download("kept", tmp_path / "again", digest=written.digest)
    assert s3fs.S3FileSystem().ls(url, refresh=True)
    assert_no_secret("".join(capsys.readouterr()))


def test_a_store_that_is_away_is_said(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("WAIT_S", "0"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GROUNDSWELL_ARTIFACTS_URL", s3_url)
    assert _main()() == 1
    said = capsys.readouterr().err
    assert f"{s3_url} cannot be used" in said
    assert_no_secret(said)
