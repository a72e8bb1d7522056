"""Objects: what is written is what is read, on every kind of store; errors name no secret."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ml_backend.errors import BadInput, StorageError
from sync.artifacts.objects import Objects, open_objects
from sync.settings import Settings
from tests.s3 import S3_KEY, S3_SECRET


@pytest.mark.parametrize("size", [0, 3, 6 * 1024**2])  # the last is more than one block
def test_what_is_written_is_read(url: str, tmp_path: Path, size: int) -> None:
    objects = open_objects(url)
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "source").write_bytes(content)
    key = Objects.new_key("projects/7", "models/v 1/ü.bin")
    written = objects.upload(tmp_path / "source", key)
    assert (written.digest, written.size) == (hashlib.sha256(content).hexdigest(), size)
    objects.download(key, tmp_path / "copy", digest=written.digest)
    assert (tmp_path / "copy").read_bytes() == content
    objects.check()
    objects.delete(key)
    objects.delete(key)
    with pytest.raises(StorageError, match="cannot read projects/7"):
        objects.download(key, tmp_path / "again", digest=written.digest)


def test_keys_never_come_twice() -> None:
    assert len({Objects.new_key("projects/7", "current") for _ in range(100)}) == 100


def test_another_content_is_refused(url: str, tmp_path: Path) -> None:
    objects = open_objects(url)
    (tmp_path / "source").write_bytes(b"what was written")
    written = objects.upload(tmp_path / "source", "k")
    (tmp_path / "source").write_bytes(b"what somebody made of it")
    objects.delete("k")
    objects.upload(tmp_path / "source", "k")
    with pytest.raises(StorageError, match="is not what was written"):
        objects.download("k", tmp_path / "copy", digest=written.digest)


def test_errors_show_no_credentials(s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    objects = open_objects(s3_url.replace("s3://b", "s3://absent"))
    with pytest.raises(StorageError, match="NoSuchBucket") as found:
        objects.upload(tmp_path / "source", "k")
    shown = f"{found.value} {found.value.hint} {found.value!r}"
    assert S3_KEY not in shown
    assert S3_SECRET not in shown
    assert found.value.__cause__ is None  # a traceback in a log would show its text

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(f"https://host/b?X-Amz-Credential={S3_KEY}&X-Amz-Signature={S3_SECRET}")

    there = open_objects(s3_url)
    monkeypatch.setattr(there._fs, "open", refuse)
    with pytest.raises(StorageError, match="PermissionError") as refused:
        there.upload(tmp_path / "source", "k")
    assert S3_SECRET not in str(refused.value)


@pytest.mark.parametrize("address", ["nosuch://x/y", "abfs://x/y"])
def test_an_address_that_cannot_be_used(address: str) -> None:
    with pytest.raises(BadInput, match="ARTIFACTS_URL"):
        open_objects(address)


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:secret@bucket/x",
        "s3://bucket/x?token=1",
        "simplecache::s3://bucket/x",
        "folder",
        "s3://b/x#y",
    ],
)
def test_settings_take_no_secrets_in_the_address(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="address"):
        Settings(data_dir=tmp_path, artifacts_url=address, signing_key="k" * 32)


def test_settings_want_a_common_signing_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="signing_key must be set"):
        Settings(data_dir=tmp_path, artifacts_url="s3://bucket/x")
