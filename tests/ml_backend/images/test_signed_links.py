"""Signed links to crops: what they cover, which keys verify them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from ml_backend.errors import StorageError
from ml_backend.images.signed_links import LinkSigner, crop_path, crop_url
from ml_backend.settings import BackendSettings


def test_signatures_fit_one_path_and_one_expiry() -> None:
    signer = LinkSigner(b"0123456789abcdef")
    query = signer.sign("/crops/3/a.jpg")
    signature = query.removeprefix("sig=")
    assert signer.verify("/crops/3/a.jpg", signature)
    assert not signer.verify("/crops/3/b.jpg", signature)
    assert not signer.verify("/crops/4/a.jpg", signature)
    assert not signer.verify("/crops/3/a.jpg", signature, "99")
    assert not signer.verify("/crops/3/a.jpg", "")
    assert not signer.verify("/crops/3/a.jpg", "é" * 22)
    assert not LinkSigner(b"another key 0123456").verify("/crops/3/a.jpg", signature)
    timed = signer.sign("/crops/3/a.jpg", expires_at=1000)
    signature, expires = (part.partition("=")[2] for part in timed.split("&"))
    assert signer.verify("/crops/3/a.jpg", signature, expires, now=999)
    assert not signer.verify("/crops/3/a.jpg", signature, expires, now=1001)
    for wrong in ("2000", "x", "-1", "٣", "9" * 40):
        assert not signer.verify("/crops/3/a.jpg", signature, wrong, now=999)
    with pytest.raises(ValueError, match="16"):
        LinkSigner(b"short")


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    settings = BackendSettings(data_dir=tmp_path)
    with ThreadPoolExecutor(8) as threads:
        links = {f.result() for f in [threads.submit(crop_url, settings, 3, "t1-aa") for _ in range(16)]}
    assert len(links) == 1
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["signing.key"]
    given = BackendSettings(data_dir=tmp_path, signing_key=SecretStr("short"), backend_url="https://b.test/")
    url = crop_url(given, 3, "t1-aa")
    assert url.startswith("https://b.test/crops/3/t1-aa.jpg?sig=")
    assert LinkSigner.from_settings(given).verify(crop_path(3, "t1-aa"), url.partition("sig=")[2])


def test_a_damaged_key_file_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "signing.key").write_text("zz")
    with pytest.raises(StorageError, match="does not hold a key"):
        LinkSigner.from_settings(BackendSettings(data_dir=tmp_path))


def signature_of(url: str) -> str:
    return url.partition("sig=")[2]


def test_links_of_earlier_releases_stay_valid() -> None:
    key = b"0123456789abcdef"
    digest = hmac.new(key, b"/crops/3/a.jpg\n0", hashlib.sha256).digest()
    old = base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")
    assert LinkSigner(key).verify("/crops/3/a.jpg", old)


def test_links_stay_valid_when_the_key_is_replaced(tmp_path: Path) -> None:
    def made_with(**keys: str) -> BackendSettings:
        return BackendSettings(data_dir=tmp_path, **{name: SecretStr(key) for name, key in keys.items()})

    path = crop_path(3, "t1-aa")
    first, second, third = (
        signature_of(crop_url(made_with(**keys), 3, "t1-aa"))
        for keys in ({}, {"signing_key": "second"}, {"signing_key": "third"})
    )
    assert len({first, second, third}) == 3
    now = LinkSigner.from_settings(made_with(signing_key="third", old_signing_keys="second, other"))
    assert [now.verify(path, one) for one in (first, second, third)] == [True, True, True]
    assert now.sign(path) == f"sig={third}"
    back = LinkSigner.from_settings(made_with(old_signing_keys="second"))  # to the key of the data directory
    assert [back.verify(path, one) for one in (first, second, third)] == [True, True, False]
    with pytest.raises(ValueError, match="16"):
        LinkSigner(b"0123456789abcdef", older=[b"short"])
