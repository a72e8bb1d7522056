"""Images: what is fetched and what is refused, tokens, checks, orientation, caches, single flight."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr

import ml_backend.images.store
from ml_backend.errors import BadImage, GroundswellError, StudioError
from ml_backend.images.decode import decode_image
from ml_backend.images.fetch import Fetcher
from ml_backend.images.store import ImageStore
from ml_backend.settings import BackendSettings
from tests.ml_backend.helpers import STUDIO, FakeStudioServer, image_bytes

PNG = image_bytes()
LEGACY = "5f3e9d2c8b7a6150"
PERSONAL = "aaa.bbb.ccc"


def settings_for(tmp_path: Path, **changes: Any) -> BackendSettings:
    options: dict[str, Any] = {
        "data_dir": tmp_path / "data",
        "studio_url": STUDIO,
        "studio_token": SecretStr(LEGACY),
    }
    return BackendSettings(**(options | changes))


def store_for(tmp_path: Path, server: FakeStudioServer, **changes: Any) -> ImageStore:
    settings = settings_for(tmp_path, **changes)
    return ImageStore(settings, fetcher=Fetcher(settings, client=server.client))


def test_uploads_are_fetched_once_with_the_token(tmp_path: Path) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": PNG})
    store = store_for(tmp_path, server)
    ref = store.get("/data/upload/1/a.png", task_id=7)
    assert ref.hw == (40, 60)
    assert ref.path.read_bytes() == PNG
    assert store.get(f"{STUDIO}/data/upload/1/a.png") == ref
    assert store.pixels(ref).shape == (40, 60, 3)
    again = store_for(tmp_path, server)  # another process: the disk knows it
    assert again.get("/data/upload/1/a.png") == ref
    assert len(server.requests) == 1
    assert server.requests[0].headers["authorization"] == f"Token {LEGACY}"


def test_what_label_studio_names_by_its_public_address_is_asked_where_this_machine_reaches_it(
    tmp_path: Path,
) -> None:
    """A storage of local files writes LABEL_STUDIO_HOST into its tasks."""
    server = FakeStudioServer({"/data/local-files/": PNG, "/data/upload/1/a.png": PNG})
    public = "https://labels.example/desk"
    store = store_for(tmp_path, server, studio_public_url=f"{public}/")
    assert store.get(f"{public}/data/local-files/?d=cells/a.png", project_id=1).hw == (40, 60)
    assert store.get("HTTPS://Labels.Example:443/desk/data/upload/1/a.png") == store.get(
        "/data/upload/1/a.png"
    )
    assert [str(request.url) for request in server.requests] == [
        f"{STUDIO}/data/local-files/?d=cells/a.png",
        f"{STUDIO}/data/upload/1/a.png",
    ]
    assert {request.headers["authorization"] for request in server.requests} == {f"Token {LEGACY}"}
    for other in ("/desk/../data/upload/1/a.png", "/data/upload/1/b.png", "/desk/api/users", "/desk/x.png"):
        with pytest.raises(BadImage, match="is not allowed"):
            store.get(f"https://labels.example{other}")
    assert len(server.requests) == 2


def test_a_personal_token_is_traded_and_renewed(tmp_path: Path) -> None:
    issued: list[str] = []

    def refresh(request: httpx.Request) -> Any:
        issued.append(f"access{len(issued)}")
        return 200, {"content-type": "application/json"}, f'{{"access": "{issued[-1]}"}}'.encode()

    def picture(request: httpx.Request) -> Any:
        return PNG if request.headers["authorization"] == "Bearer access1" else (401, {}, b"")

    server = FakeStudioServer({"/api/token/refresh/": refresh, "/data/upload/1/a.png": picture})
    store = store_for(tmp_path, server, studio_token=SecretStr(PERSONAL))
    store.get("/data/upload/1/a.png")  # the first access token is refused, the second one works
    assert issued == ["access0", "access1"]
    assert not any(PERSONAL in str(r.headers) for r in server.requests)


def test_a_changed_token_is_read_again_when_the_old_one_is_refused(tmp_path: Path) -> None:
    def picture(request: httpx.Request) -> Any:
        return PNG if request.headers["authorization"] == "Token the-new-one" else (401, {}, b"")

    key = tmp_path / "key"
    key.write_text(LEGACY)
    server = FakeStudioServer({"/data/upload/1/a.png": picture})
    store = store_for(tmp_path, server, studio_token_file=key)
    with pytest.raises(BadImage, match="401"):
        store.get("/data/upload/1/a.png")
    assert len(server.requests) == 1, "the same token is not tried twice"
    key.write_text('{"token": "the-new-one", "email": "as in secrets.json"}')
    assert store.get("/data/upload/1/a.png").hw == (40, 60)


def test_a_refused_personal_token_says_so_without_showing_it(tmp_path: Path) -> None:
    server = FakeStudioServer({"/api/token/refresh/": (401, {}, b"")})
    store = store_for(tmp_path, server, studio_token=SecretStr(PERSONAL))
    with pytest.raises(StudioError, match="personal access token") as caught:
        store.get("/data/upload/1/a.png")
    assert PERSONAL not in str(caught.value)
    assert "GROUNDSWELL_STUDIO_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:22/",
        "http://localhost/x.png",
        "http://studio.test:9999/data/upload/1/a.png",
        "https://studio.test:8080/data/upload/1/a.png",
        "http://studio.test:8080@evil.test/a.png",
        "//evil.test/a.png",
        "http://evil.test/a.png",
    ],
)
def test_other_hosts_are_not_called(tmp_path: Path, address: str) -> None:
    server = FakeStudioServer({})
    with pytest.raises(BadImage, match=r"cannot read|not an image|HTTP 404") as caught:
        store_for(tmp_path, server).get(address)
    called = {r.url.host for r in server.requests}
    assert called <= {"studio.test"}, "a host that is not allowed was called"
    if not called:
        assert "GROUNDSWELL_ALLOW_IMAGE_HOSTS" in caught.value.hint


NO_IMAGE_ROUTES = [
    "/api/users",
    "api/users",
    "/user/account",
    "/data/",
    "/data/upload/",
    "/data/upload/../../api/users",
    "/data/upload/1/%2e%2e/%2E%2e/%2e%2e/api/users",
    "/data/upload/1/%252e%252e/%252e%252e/%252e%252e/api/users",
    "/data/upload/1/%25252e%25252e/%25252e./.%25252e/api/users",
    "/data/upload/1/..%2f..%2f..%2fapi/users",
    "/data/upload/1/..\\..\\..\\api/users",
    "/data/upload/1/%5c..%5c..%5capi/users",
    "/data/upload/1/.\t./.\t./.\t./api/users",
    "/data/upload/1/./a.png",
    "/data/upload//api/users",
    "/data/uploads/a.png",
    "/data/local-files/../../api/users?d=a.png",
    "/data/local-filesystem/?d=a.png",
    "/tasks/1/",
    "/tasks/1/annotations/",
    "/tasks/x/resolve/",
    "/tasks/1/resolve/../../../api/users",
    "/projects/1/export",
    "/projects/1/resolve/x",
    "/storage-data/../api/users",
    f"{STUDIO}/api/users",
    f"{STUDIO}/data/upload/../../api/users",
    f"{STUDIO.upper().replace('HTTP', 'http')}/data/upload/%2e%2e/%2e%2e/api/users",
    f"http://me:secret@{STUDIO.removeprefix('http://')}/api/users",
    f"{STUDIO}",
]


@pytest.mark.parametrize("address", NO_IMAGE_ROUTES)
def test_other_routes_of_label_studio_are_not_called(tmp_path: Path, address: str) -> None:
    server = FakeStudioServer({"/api/users": PNG, "/": PNG, "": PNG, "/tasks/1/": PNG})
    store = store_for(tmp_path, server)
    with pytest.raises(BadImage, match=r"not an http address|not a route|not allowed|not an address"):
        store.get(address)
    assert server.requests == []


def test_redirects_do_not_lead_to_other_routes_of_label_studio(tmp_path: Path) -> None:
    server = FakeStudioServer(
        {
            "/data/upload/1/a.png": (302, {"location": "/api/users"}, b""),
            "/data/upload/1/b.png": (302, {"location": "../../../user/login/?next=/"}, b""),
            "/api/users": PNG,
            "/user/login/": PNG,
        }
    )
    for name in ("a", "b"):
        with pytest.raises(BadImage, match="not a route") as caught:
            store_for(tmp_path, server).get(f"/data/upload/1/{name}.png")
        assert "GROUNDSWELL_STUDIO_TOKEN" in caught.value.hint
    assert [r.url.path for r in server.requests] == ["/data/upload/1/a.png", "/data/upload/1/b.png"]


def test_all_routes_that_hold_images_are_called(tmp_path: Path) -> None:
    odd = "/data/upload/1/0a1b2c3d-ä (1) 100%25 sure..png"
    server = FakeStudioServer(
        {
            "/data/upload/1/0a1b2c3d-ä (1) 100% sure..png": PNG,
            "/data/local-files/": PNG,
            "/data/local-files": PNG,
            "/storage-data/uploaded/": PNG,
            "/tasks/3/presign/": PNG,
            "/projects/3/resolve/": PNG,
        }
    )
    store = store_for(tmp_path, server)
    for address in (
        odd,
        "/data/local-files/?d=set%201/../a.png",
        "data/local-files?d=a.png",
        f"{STUDIO}/storage-data/uploaded/?filepath=upload/a.png",
        "/tasks/3/presign/?fileuri=czM6",
        "/projects/3/resolve/?fileuri=czM6",
    ):
        store.get(address)
    assert len(server.requests) == 6
    assert all(r.headers["authorization"] == f"Token {LEGACY}" for r in server.requests)
    below = FakeStudioServer({f"{STUDIO}/studio/data/upload/1/a.png": PNG})
    prefixed = store_for(tmp_path / "prefix", below, studio_url=f"{STUDIO}/studio/")
    ref = prefixed.get("/data/upload/1/a.png")
    # the form in which Label Studio names uploads where it is served below a path
    assert prefixed.get("/studio/data/upload/1/a.png") == ref
    at = {"studio_public_url": "https://labels.example/studio"}
    outside = store_for(tmp_path / "outside", FakeStudioServer({f"{STUDIO}/data/upload/1/a.png": PNG}), **at)
    assert outside.get("/studio/data/upload/1/a.png").hw == (40, 60)
    for address in ("/studio/../data/upload/1/a.png", "/studio/api/users"):
        with pytest.raises(BadImage, match="not a route"):
            prefixed.get(address)
    for address in ("/../data/upload/1/a.png", f"{STUDIO}/data/upload/1/a.png"):
        with pytest.raises(BadImage, match="not a route"):
            prefixed.get(address)


def test_allowed_hosts_get_no_token(tmp_path: Path) -> None:
    server = FakeStudioServer({"https://pictures.test/a.png": PNG, "http://other.test:81/b.png": PNG})
    store = store_for(tmp_path, server, allow_image_hosts="pictures.test, other.test:81")
    store.get("https://pictures.test/a.png?X=1")
    store.get("http://other.test:81/b.png")
    assert not any("authorization" in r.headers for r in server.requests)
    with pytest.raises(BadImage):
        store.get("http://other.test:82/b.png")


def test_redirects_end_somewhere(tmp_path: Path) -> None:
    """Where they may lead: tests/ml_backend/images/test_network.py."""
    server = FakeStudioServer(
        {"/data/upload/1/loop.png": (302, {"location": "/data/upload/1/loop.png"}, b"")}
    )
    store = store_for(tmp_path, server)
    with pytest.raises(BadImage, match="redirects"):
        store.get("/data/upload/1/loop.png")
    with pytest.raises(BadImage, match="stored task"):
        store.get("s3://bucket/b.png")


def test_storage_addresses_resolve_by_project_too(tmp_path: Path) -> None:
    server = FakeStudioServer({"/projects/4/resolve/": PNG})
    store_for(tmp_path, server).get("gs://bucket/a.png", project_id=4)
    assert [r.url.path for r in server.requests] == ["/projects/4/resolve/"]


def test_files_only_below_allowed_folders(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "a b.png").write_bytes(PNG)
    (outside / "secret.png").write_bytes(PNG)
    (inside / "link.png").symlink_to(outside / "secret.png")
    server = FakeStudioServer({})
    store = store_for(tmp_path, server, allow_image_dirs=f"{inside}:/nonexistent")
    assert store.get(f"file://{inside}/a%20b.png").hw == (40, 60)
    assert store.get(str(inside / "a b.png")).hw == (40, 60)
    for address in (
        f"file://{outside}/secret.png",
        f"file://{inside}/link.png",
        f"file://{inside}/../out/secret.png",
    ):
        with pytest.raises(BadImage, match="GROUNDSWELL_ALLOW_IMAGE_DIRS"):
            store.get(address)
    with pytest.raises(BadImage, match="No such file"):
        store.get(f"file://{inside}/none.png")
    assert server.requests == []


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    store = store_for(tmp_path, FakeStudioServer({}), allow_image_dirs=str(tmp_path))
    first = store.get(str(path))
    path.write_bytes(image_bytes((10, 20), seed=1))
    assert store.get(str(path)).hw == (10, 20)
    assert first.hw == (40, 60)


def test_data_addresses(tmp_path: Path) -> None:
    store = store_for(tmp_path, FakeStudioServer({}))
    good = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert store.get(good).hw == (40, 60)
    for address, words in (("data:text/html,hi", "not an image"), ("data:image/png;base64,!!", "base64")):
        with pytest.raises(BadImage, match=words):
            store.get(address)


@pytest.mark.parametrize(
    ("answer", "words", "hint"),
    [
        ((401, {}, b""), "HTTP 401", "GROUNDSWELL_STUDIO_TOKEN"),
        ((403, {}, b""), "HTTP 403", "storage"),
        ((404, {}, b""), "HTTP 404", "local file serving"),
        ((500, {}, b""), "HTTP 500", "log"),
        ((200, {"content-type": "text/html"}, b"<html>"), "web page", ""),
        ((200, {"content-type": "image/png"}, b""), "empty", ""),
        ((200, {"content-type": "image/png"}, b"hello, I am text"), "not an image", "JPEG"),
        (
            (200, {"content-type": "image/png"}, b"x" * 5000),
            "larger than 4000",
            "GROUNDSWELL_MAX_IMAGE_BYTES",
        ),
    ],
)
def test_answers_that_are_no_image(tmp_path: Path, answer: Any, words: str, hint: str) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": answer})
    with pytest.raises(BadImage, match=words) as caught:
        store_for(tmp_path, server, max_image_bytes=4000).get("/data/upload/1/a.png")
    assert hint in caught.value.hint
    assert LEGACY not in str(caught.value)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_an_absent_studio_is_a_studio_error(tmp_path: Path, error: Exception) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": error})
    with pytest.raises(StudioError, match="cannot be reached") as caught:
        store_for(tmp_path, server).get("/data/upload/1/a.png")
    assert "GROUNDSWELL_STUDIO_URL" in caught.value.hint


@pytest.mark.parametrize(
    "address",
    ["", "   ", "ftp://x/a.png", "javascript:alert(1)", "http://", "http://[::1"]
    + [
        head + "\ud800"
        for head in ("", "/data/upload/", "data:image/png,", "s3://b/", "file:///", "http://x/")
    ],
)
def test_nonsense_addresses(tmp_path: Path, address: str) -> None:
    with pytest.raises(BadImage):
        store_for(tmp_path, FakeStudioServer({})).get(address)


@pytest.fixture(scope="module")
def absent(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageStore, FakeStudioServer]:
    """A store beside a Label Studio that holds nothing."""
    server = FakeStudioServer({})
    return store_for(tmp_path_factory.mktemp("absent"), server), server


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(st.characters(), max_size=60),  # with halves of characters
        st.from_regex(r"(http|https|file|s3|data|ftp)://?[a-z0-9.:@\[\]%/?#_ -]{0,40}", fullmatch=True),
        st.from_regex(r"/[\x00-\x7f]{0,30}", fullmatch=True),
    )
)
@settings(max_examples=300, deadline=None)
@example("/\x00")
@example("file:///\x00")
@example("file://[")
@example("/" + "a" * 5000)
def test_any_address_fails_in_a_known_way(absent: tuple[ImageStore, FakeStudioServer], address: str) -> None:
    store, server = absent
    with pytest.raises(GroundswellError):
        store.get(address)
    assert {r.url.host for r in server.requests} <= {"studio.test"}


def test_messages_hide_signatures(tmp_path: Path) -> None:
    with pytest.raises(BadImage) as caught:
        store_for(tmp_path, FakeStudioServer({})).get("https://user:pw@evil.test/a.png?Signature=verysecret")
    assert "verysecret" not in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_applied_as_browsers_do(tmp_path: Path, fmt: str, orientation: int) -> None:
    upright = np.zeros((30, 50, 3), np.uint8)
    upright[:10, :15] = 255  # white corner, top left as seen
    turn = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"lossless": True} if fmt == "WEBP" else {}
    Image.fromarray(np.rot90(upright, turn)).save(file, fmt, exif=exif, **options)
    store = store_for(tmp_path, FakeStudioServer({}))
    ref = store.put(file.getvalue())
    pixels = store.pixels(ref)
    assert ref.hw == pixels.shape[:2] == (30, 50)
    assert pixels[4, 6].min() > 200
    assert pixels[25, 40].max() < 50


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "F"])
def test_all_modes_become_rgb(mode: str) -> None:
    grey = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    image = Image.fromarray(grey)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 200)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32))
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF" if mode in ("CMYK", "F", "I;16") else "PNG")
    pixels = decode_image(file.getvalue(), max_pixels=10_000)
    assert pixels.shape == (40, 60, 3)
    assert pixels.dtype == np.uint8
    assert pixels[:, -1].min() > pixels[:, 0].max()


def test_transparency_is_laid_on_white() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(file, "PNG")
    assert (decode_image(file.getvalue(), max_pixels=100) == 255).all()


def test_the_largest_picture_is_what_the_settings_say(tmp_path: Path) -> None:
    store = store_for(tmp_path, FakeStudioServer({}), max_image_pixels=500_000_000)
    assert store.put(b"P4\n20000 22000\n").hw == (22_000, 20_000)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "AVIF"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_a_bad_image(fmt: str, data: st.DataObject) -> None:
    damaged = bytearray(image_bytes(fmt=fmt))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=5)):
        damaged[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadImage):
        assert decode_image(bytes(damaged), max_pixels=10**6).dtype == np.uint8


def test_a_damaged_avif_is_a_bad_image() -> None:
    whole = image_bytes(fmt="AVIF")
    with pytest.raises(BadImage, match="damaged"):  # Pillow raises RuntimeError
        decode_image(whole.replace(b"pitm", bytes(4)), max_pixels=10**6)


def test_too_many_pixels_and_damaged_files(tmp_path: Path) -> None:
    store = store_for(tmp_path, FakeStudioServer({}), max_image_pixels=1000)
    with pytest.raises(BadImage, match="more than 1000"):
        store.put(PNG)
    with pytest.raises(BadImage, match="more than 200000000"):
        store_for(tmp_path, FakeStudioServer({})).put(b"P4\n20000 20000\n")
    whole = image_bytes((200, 200), fmt="JPEG")
    ref = store_for(tmp_path, FakeStudioServer({})).put(whole[: len(whole) // 3])
    with pytest.raises(BadImage, match="damaged"):
        store_for(tmp_path, FakeStudioServer({})).pixels(ref)


def test_pixels_are_shared_and_read_only(tmp_path: Path) -> None:
    store = store_for(tmp_path, FakeStudioServer({}))
    ref = store.put(PNG)
    first = store.pixels(ref)
    assert store.pixels(ref) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0
    ref.path.unlink()
    assert store.pixels(ref) is first
    with pytest.raises(BadImage, match="cached copy"):
        store_for(tmp_path, FakeStudioServer({})).pixels(ref)


def test_memory_is_capped(tmp_path: Path) -> None:
    size = 40 * 60 * 3
    store = store_for(tmp_path, FakeStudioServer({}), image_ram_bytes=2 * size)
    refs = [store.put(image_bytes(seed=i)) for i in range(3)]
    first = store.pixels(refs[0])
    for ref in refs[1:]:
        store.pixels(ref)
    assert store.pixels(refs[0]) is not first


def test_disk_is_capped_but_recent_files_stay(tmp_path: Path) -> None:
    store = store_for(tmp_path, FakeStudioServer({}), image_disk_bytes=4 * len(PNG))
    refs = [store.put(image_bytes(seed=i)) for i in range(4)]
    for ref in refs[:3]:
        os.utime(ref.path, (time.time() - 90_000, time.time() - 90_000 + refs.index(ref)))
    for i in range(10, 14):
        refs.append(store.put(image_bytes(seed=i)))
    assert not any(ref.path.exists() for ref in refs[:3])
    assert all(ref.path.exists() for ref in refs[3:])
    assert store.by_sha(refs[3].sha, refs[3].hw) == refs[3]
    assert store.by_sha(refs[0].sha, refs[0].hw) is None
    assert store.by_sha("../../etc/passwd", (1, 1)) is None


def test_mutable_addresses_are_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeStudioServer({"/data/local-files/": PNG, "/data/upload/1/a.png": PNG})
    store = store_for(tmp_path, server)
    for _ in range(2):
        store.get("/data/local-files/?d=a.png")
        store.get("/data/upload/1/a.png")
    assert len(server.requests) == 2
    monkeypatch.setattr(ml_backend.images.store, "_MUTABLE_AGE_S", -1.0)
    store.get("/data/local-files/?d=a.png")
    store.get("/data/upload/1/a.png")
    assert [r.url.path for r in server.requests[2:]] == ["/data/local-files/"]


def test_two_threads_fetch_one_cold_image_once(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(request: httpx.Request) -> bytes:
        gate.wait(60)
        return PNG

    server = FakeStudioServer({"/data/upload/1/a.png": slow})
    store = store_for(tmp_path, server)
    with ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(store.get, "/data/upload/1/a.png") for _ in range(8)]
        while not server.requests:
            time.sleep(0.001)
        gate.set()
        refs = {job.result(timeout=60) for job in jobs}
    assert len(refs) == 1
    assert len(server.requests) == 1


def test_a_failed_fetch_fails_all_waiters_and_is_tried_again(tmp_path: Path) -> None:
    server = FakeStudioServer({})
    store = store_for(tmp_path, server)
    for _ in range(2):
        with pytest.raises(GroundswellError):
            store.get("/data/upload/1/a.png")
    assert len(server.requests) == 2
    server.routes["/data/upload/1/a.png"] = PNG
    assert store.get("/data/upload/1/a.png").hw == (40, 60)
