"""Which addresses are really called: names that change, private addresses in every form, redirects, tokens.

Nothing of the check is replaced here, only the internet (see ``small_internet``).
"""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from ml_backend.errors import BadImage, StudioError
from ml_backend.images.fetch import Fetcher
from ml_backend.images.network import is_public
from ml_backend.settings import BackendSettings
from tests.ml_backend.helpers import STUDIO, image_bytes
from tests.ml_backend.images.small_internet import reply, small_internet

PNG = image_bytes()
PUBLIC, OTHER = "93.184.216.34", "151.101.1.6"
INSIDE = "10.0.0.5"
TOKEN = "5f3e9d2c8b7a6150"
HERE = {"/a.png": reply(body=PNG, content_type="image/png")}
STUDIO_AT = (INSIDE, 8080)


def fetcher(tmp_path: Path, **changes: Any) -> Fetcher:
    options: dict[str, Any] = {"data_dir": tmp_path, "studio_url": STUDIO, "studio_token": SecretStr(TOKEN)}
    return Fetcher(BackendSettings(**(options | changes)))


def test_a_name_is_resolved_once_and_what_was_checked_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when it is checked and private when it is called again."""
    names = {"pictures.test": [[PUBLIC], ["127.0.0.1"]]}
    places = {(PUBLIC, 80): HERE, ("127.0.0.1", 80): {"/a.png": reply(body=b"secrets of this machine")}}
    with small_internet(monkeypatch, names=names, servers=places) as net:
        wanted = fetcher(tmp_path, allow_image_hosts="pictures.test")
        assert wanted.fetch("http://pictures.test/a.png") == PNG
        assert net.questions == ["pictures.test"]
        assert net.calls == [(PUBLIC, 80)]
        assert net.paths == ["pictures.test/a.png"]


def test_a_name_that_becomes_private_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"pictures.test": [[PUBLIC], ["127.0.0.1"]]}
    once = {"/a.png": reply(body=PNG, connection="close")}
    with small_internet(
        monkeypatch, names=names, servers={(PUBLIC, 80): once, ("127.0.0.1", 80): HERE}
    ) as net:
        wanted = fetcher(tmp_path, allow_image_hosts="pictures.test")
        assert wanted.fetch("http://pictures.test/a.png") == PNG
        with pytest.raises(BadImage, match=r"pictures\.test has the private address 127\.0\.0\.1"):
            wanted.fetch("http://pictures.test/a.png")
        assert net.calls == [(PUBLIC, 80)]


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
    "2002:a00:1::", "::7f00:1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_called_in_any_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with small_internet(monkeypatch, names={"pictures.test": [[address]]}, servers={}) as net:
        with pytest.raises(BadImage, match="private address") as caught:
            fetcher(tmp_path, allow_image_hosts="pictures.test").fetch("http://pictures.test/a.png")
        assert net.calls == []
    assert "GROUNDSWELL_ALLOW_IMAGE_NETWORKS" in caught.value.hint


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


def test_one_private_address_among_public_ones_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"pictures.test": [[PUBLIC, "10.0.0.1"]]}
    with small_internet(monkeypatch, names=names, servers={(PUBLIC, 80): HERE}) as net:
        with pytest.raises(BadImage, match="private address"):
            fetcher(tmp_path, allow_image_hosts="pictures.test").fetch("http://pictures.test/a.png")
        assert net.calls == []


def test_the_next_address_is_tried_when_one_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"pictures.test": [[OTHER, PUBLIC]]}
    with small_internet(monkeypatch, names=names, servers={(PUBLIC, 80): HERE}) as net:
        assert fetcher(tmp_path, allow_image_hosts="pictures.test").fetch("http://pictures.test/a.png") == PNG
        assert net.calls == [(OTHER, 80), (PUBLIC, 80)]


def test_hosts_of_ones_own_network_are_called_when_host_and_network_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"minio.lan": [[INSIDE]], "pictures.test": [["10.200.0.1"]]}
    with small_internet(monkeypatch, names=names, servers={(INSIDE, 9000): HERE}) as net:
        hosts = "minio.lan:9000, pictures.test, 127.0.0.1:9000"
        wanted = fetcher(tmp_path, allow_image_hosts=hosts, allow_image_networks="10.0.0.0/16, fd00::/8")
        assert wanted.fetch("http://minio.lan:9000/a.png") == PNG
        with pytest.raises(BadImage, match="not allowed"):  # another port of the same host
            wanted.fetch("http://minio.lan:22/a.png")
        with pytest.raises(BadImage, match="private address"):  # another network
            wanted.fetch("http://pictures.test/a.png")
        assert net.calls == [(INSIDE, 9000)]
        net.servers[("127.0.0.1", 9000)] = HERE
        assert wanted.fetch("http://127.0.0.1:9000/a.png") == PNG  # the address itself was named


def test_the_error_names_the_host_with_its_port_and_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that worked before the networks had to be named, with a bucket on a port of its own."""
    names = {"studio.test": [[INSIDE]], "minio.lan": [["10.0.0.9"]]}
    studio = {"/tasks/7/resolve/": reply(303, location="http://minio.lan:9000/a.png")}
    with small_internet(monkeypatch, names=names, servers={(INSIDE, 8080): studio}) as net:
        wanted = fetcher(tmp_path, studio_url="http://studio.test:8080", allow_image_hosts="minio.lan")
        with pytest.raises(BadImage, match="private address") as caught:
            wanted.fetch("s3://bucket/a.png", task_id=7)
        assert "minio.lan:9000 in GROUNDSWELL_ALLOW_IMAGE_HOSTS" in caught.value.hint
        net.servers[("10.0.0.9", 9000)] = HERE
        settings = {"allow_image_hosts": "minio.lan:9000", "allow_image_networks": "10.0.0.9"}
        told = fetcher(tmp_path, studio_url="http://studio.test:8080", **settings)
        assert told.fetch("s3://bucket/a.png", task_id=7) == PNG  # what the hint says is enough


def test_another_port_of_label_studios_machine_is_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the place that the admin wrote down may be private, not all that listens on that machine."""
    studio = {"/tasks/7/resolve/": reply(303, location="http://studio.test:2375/secrets.png")}
    servers = {(INSIDE, 8080): studio, (INSIDE, 2375): {"/secrets.png": reply(200, PNG)}}
    with small_internet(monkeypatch, names={"studio.test": [[INSIDE]]}, servers=servers) as net:
        with pytest.raises(BadImage, match="private address"):
            fetcher(tmp_path, studio_url="http://studio.test:8080").fetch("s3://bucket/a.png", task_id=7)
        assert net.calls == [(INSIDE, 8080)]


def test_redirects_are_checked_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio signs links to buckets, which may be anywhere but inside. Others sign nothing."""
    names = {
        "studio.test": [[INSIDE]],
        "bucket.test": [[PUBLIC]],
        "inside.test": [["10.0.0.9"]],
        "ok.test": [[OTHER]],
    }
    studio = {
        "/tasks/7/resolve/": reply(303, location="http://bucket.test/a.png?signature=1"),
        "/tasks/8/resolve/": reply(303, location="http://inside.test/admin"),
        "/tasks/9/resolve/": reply(303, location="http://bucket.test/inside"),
        "/tasks/10/resolve/": reply(303, location="http://bucket.test/studio"),
        "/tasks/11/resolve/": reply(303, location="https://studio.test:8080/data/upload/1/a.png"),
        "/tasks/12/resolve/": reply(303, location="http://169.254.169.254/latest/meta-data/"),
        "/tasks/13/resolve/": reply(303, location="file:///etc/passwd"),
    }
    bucket = {
        **HERE,
        "/inside": reply(302, location="http://inside.test/admin"),
        "/studio": reply(302, location=f"{STUDIO}/data/upload/1/a.png"),
    }
    ok = {"/a.png": reply(302, location="http://bucket.test/a.png")}
    servers = {STUDIO_AT: studio, (PUBLIC, 80): bucket, (OTHER, 80): ok}
    with small_internet(monkeypatch, names=names, servers=servers) as net:
        wanted = fetcher(tmp_path, allow_image_hosts="ok.test")
        assert wanted.fetch("s3://bucket/a.png", task_id=7) == PNG
        resolve, signed = net.asked
        assert base64.urlsafe_b64decode(resolve.path.partition("fileuri=")[2]) == b"s3://bucket/a.png"
        assert resolve.headers["authorization"] == f"Token {TOKEN}"
        assert "authorization" not in signed.headers
        for task, words in (
            (8, "inside.test has the private address"),
            (9, "inside.test has the private address"),
            (10, "another host led to Label Studio"),
            (11, "not allowed"),
            (12, "private address"),
            (13, "not an http address"),
        ):
            with pytest.raises(BadImage, match=words):
                wanted.fetch("s3://bucket/a.png", task_id=task)
        with pytest.raises(BadImage, match=r"bucket\.test is not allowed"):  # only Label Studio signs links
            wanted.fetch("http://ok.test/a.png")
        assert set(net.calls) == {STUDIO_AT, (PUBLIC, 80), (OTHER, 80)}
        others = [one for one in net.asked if one.host != "studio.test:8080"]
        assert others
        assert not any("authorization" in one.headers for one in others)


def test_cookies_and_proxies_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:3128")
    marked = {"/a.png": reply(body=PNG, set_cookie="who=task-7; Path=/")}
    with small_internet(
        monkeypatch, names={"pictures.test": [[PUBLIC]]}, servers={(PUBLIC, 80): marked}
    ) as net:
        wanted = fetcher(tmp_path, allow_image_hosts="pictures.test")
        for _ in range(2):
            assert wanted.fetch("http://pictures.test/a.png") == PNG
        assert set(net.calls) == {(PUBLIC, 80)}
        assert [one.headers.get("cookie") for one in net.asked] == [None, None]


def test_a_name_without_an_address_is_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_internet(monkeypatch, names={}, servers={}):
        with pytest.raises(StudioError, match="ConnectError"):
            fetcher(tmp_path).fetch("/data/upload/1/a.png")
        with pytest.raises(BadImage, match="ConnectError"):
            fetcher(tmp_path, allow_image_hosts="gone.test").fetch("http://gone.test/a.png")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_image_hosts", "http://pictures.test"),
        ("allow_image_hosts", "pictures.test/a"),
        ("allow_image_hosts", "a@b.test"),
        ("allow_image_hosts", "pictures.test:x"),
        ("allow_image_networks", "10.0.0.1/8"),
        ("allow_image_networks", "mine"),
    ],
)
def test_wrong_settings_are_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        BackendSettings(**{name: value})  # type: ignore[arg-type]


def test_certificates_are_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is called, but the certificate must be that of the name."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-subj", "/CN=pictures.test", "-addext", "subjectAltName=DNS:pictures.test", "-days", "2",
         "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    names = {"pictures.test": [[PUBLIC]], "other.test": [[PUBLIC]]}
    with small_internet(monkeypatch, names=names, servers={(PUBLIC, 443): HERE}, tls=server) as net:
        wanted = fetcher(tmp_path, allow_image_hosts="pictures.test, other.test")
        assert wanted.fetch("https://pictures.test/a.png") == PNG
        with pytest.raises(BadImage, match="ConnectError"):
            wanted.fetch("https://other.test/a.png")
        assert net.paths == ["pictures.test/a.png"]
