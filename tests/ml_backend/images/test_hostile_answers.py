"""Answers that would cost memory or time without end, and documents that say they are pictures."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from ml_backend.errors import BadImage, StudioError
from ml_backend.images.bodies import read_body
from ml_backend.images.decode import decode_image
from ml_backend.images.fetch import Fetcher
from ml_backend.images.store import ImageStore
from ml_backend.settings import BackendSettings
from tests.ml_backend.helpers import STUDIO, FakeStudioServer, image_bytes
from tests.ml_backend.images.small_internet import Answer, Asked, reply, small_internet
from tests.ml_backend.images.test_images import store_for

pytestmark = pytest.mark.timeout(60)  # what is not refused goes on for ever

PNG = image_bytes()
PUBLIC = "93.184.216.34"
OK = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"
LIMIT = 200_000


def fetched(patch: pytest.MonkeyPatch, folder: Path, answer: Answer, **changes: Any) -> bytes:
    """What a fetch from a host with this answer gives."""
    options: dict[str, Any] = {
        "data_dir": folder,
        "allow_image_hosts": "pictures.test",
        "max_image_bytes": LIMIT,
        "fetch_deadline_s": 30.0,
    }
    servers = {(PUBLIC, 80): {"/a.png": answer}}
    with small_internet(patch, names={"pictures.test": [[PUBLIC]]}, servers=servers):
        return Fetcher(BackendSettings(**(options | changes))).fetch("http://pictures.test/a.png")


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def endless(_: Asked) -> Iterator[bytes]:
    yield OK + b"transfer-encoding: chunked\r\n\r\n"
    while True:
        yield chunk(bytes(8192))


def endless_name_inside_of_gzip(_: Asked) -> Iterator[bytes]:
    """The header of a gzip file may hold a name, which has no end here: nothing is ever unpacked."""
    yield OK + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    yield chunk(b"\x1f\x8b\x08\x08" + bytes(4) + b"\x00\x03")
    while True:
        yield chunk(b"a" * 8192)


def gzip_bomb(_: Asked) -> list[bytes]:
    body = gzip.compress(bytes(50 * LIMIT))
    assert len(body) < LIMIT / 10
    head = f"content-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n"
    return [OK + head.encode() + body]


def too_long_by_its_own_words(_: Asked) -> list[bytes]:
    return [OK + b"content-length: 1000000000000\r\n\r\n"]


@pytest.mark.parametrize(
    "answer", [endless, endless_name_inside_of_gzip, gzip_bomb, too_long_by_its_own_words]
)
def test_endless_and_packed_bodies_end_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    with pytest.raises(BadImage, match=f"larger than {LIMIT} bytes"):
        fetched(monkeypatch, tmp_path, answer)


def test_a_bomb_is_never_unpacked_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = gzip.compress(bytes(100 * 2**20))
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match="larger than"):
            fetched(monkeypatch, tmp_path, reply(body=body, content_encoding="gzip"))
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def drip(start: bytes, piece: bytes) -> Answer:
    """``start``, then ``piece`` again and again, each long before a single wait would be too long."""

    def pieces(_: Asked) -> Iterable[bytes]:
        yield start
        while True:
            time.sleep(0.02)
            yield piece

    return pieces


SLOW = {
    "no answer at all": drip(b"", b""),
    "headers": drip(b"HTTP/1.1 200 OK\r\nx: ", b"y"),
    "more and more headers": drip(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "body": drip(OK + b"content-length: 100000\r\n\r\n", b"x"),
    "chunks": drip(OK + b"transfer-encoding: chunked\r\n\r\n", chunk(b"x")),
    "size of a chunk": drip(OK + b"transfer-encoding: chunked\r\n\r\n1;", b"x"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_answer_ends_with_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with pytest.raises(BadImage, match=r"longer than 0\.3 s"):
        fetched(monkeypatch, tmp_path, SLOW[name], fetch_deadline_s=0.3)


def test_a_slow_answer_of_label_studio_ends_with_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = Fetcher(BackendSettings(data_dir=tmp_path, studio_url=STUDIO, fetch_deadline_s=0.3))
    servers = {("10.0.0.5", 8080): {"/data/upload/1/a.png": SLOW["body"]}}
    with (
        small_internet(monkeypatch, names={"studio.test": [["10.0.0.5"]]}, servers=servers),
        pytest.raises(StudioError, match=r"longer than 0\.3 s"),
    ):
        fetcher.fetch("/data/upload/1/a.png")


def test_redirects_and_a_slow_token_count_towards_the_same_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(_: Asked) -> Iterator[bytes]:
        time.sleep(0.2)
        yield b"HTTP/1.1 302 X\r\nlocation: /a.png\r\ncontent-length: 0\r\n\r\n"

    with pytest.raises(BadImage, match=r"longer than 0\.3 s"):
        fetched(monkeypatch, tmp_path, later, fetch_deadline_s=0.3)
    settings = BackendSettings(
        data_dir=tmp_path, studio_url=STUDIO, studio_token="aaa.bbb.ccc", fetch_deadline_s=0.3
    )
    servers = {("10.0.0.5", 8080): {"/api/token/refresh/": drip(OK, b"x: y\r\n")}}
    with small_internet(monkeypatch, names={"studio.test": [["10.0.0.5"]]}, servers=servers) as net:
        with pytest.raises(StudioError, match="cannot be reached"):
            Fetcher(settings).fetch("/data/upload/1/a.png")
        assert net.paths == ["studio.test:8080/api/token/refresh/"]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_a_picture_that_was_kept_packed_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    asked: list[Asked] = []

    def answer(request: Asked) -> Iterable[bytes]:
        asked.append(request)
        return reply(body=pack(PNG), content_encoding=encoding)(request)

    assert fetched(monkeypatch, tmp_path, answer) == PNG
    assert asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", b"no gzip", "damaged"),
        ("gzip", gzip.compress(PNG)[:-20], "not complete"),
        ("br", PNG, "packed as 'br'"),
        ("gzip, gzip", gzip.compress(gzip.compress(PNG)), "which is not read"),
    ],
)
def test_other_packings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, body: bytes, words: str
) -> None:
    with pytest.raises(BadImage, match=words):
        fetched(monkeypatch, tmp_path, reply(body=body, content_encoding=encoding))


# documents in disguise

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
DOCUMENTS = {
    "svg": SVG,
    "svg with a declaration": b'\n<?xml version="1.0"?>\n' + SVG,
    "svg after a mark": b"\xef\xbb\xbf " + SVG,
    "svg of two bytes": b"\xff\xfe" + SVG.decode().encode("utf-16-le"),
    "html": b"<!DOCTYPE html><html><body onload=alert(1)></body></html>",
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", ""])
def test_documents_in_disguise_are_no_pictures(tmp_path: Path, name: str, kind: str) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": (200, {"content-type": kind}, DOCUMENTS[name])})
    with pytest.raises(BadImage, match="web page or a drawing"):
        store_for(tmp_path, server).get("/data/upload/1/a.png")
    assert not list((tmp_path / "data").rglob("*.*"))


@pytest.mark.parametrize("packing", ["", "gzip"])
def test_a_body_of_exactly_the_limit_is_read(packing: str) -> None:
    sent = gzip.compress(b"x" * 100) if packing else b"x" * 100
    for limit in (100, 99):
        answer = httpx.Response(200, headers={"content-encoding": packing}, content=iter([sent]))
        options: dict[str, Any] = {"name": "a.png", "limit": limit, "field": "image"}
        if limit == 100:
            assert read_body(answer, **options) == b"x" * 100
        else:
            with pytest.raises(BadImage, match="larger than 99"):
                read_body(answer, **options)


def test_an_avif_of_many_brands_is_no_web_page() -> None:
    """Its first box is 60 bytes long, and the byte of that number is ``<``."""
    head = b"\0\0\0\x3cftypavif\0\0\0\0" + b"mif1" * 11
    with pytest.raises(BadImage) as caught:
        decode_image(head, max_pixels=100)  # there is no picture behind it
    assert "web page" not in caught.value.message


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "Image/SVG+XML", "application/xhtml+xml"])
def test_what_says_that_it_is_a_document_is_not_read_at_all(tmp_path: Path, kind: str) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": (200, {"content-type": kind}, PNG)})
    with pytest.raises(BadImage, match="answered with"):
        store_for(tmp_path, server).get("/data/upload/1/a.png")


@pytest.mark.parametrize("head", ["data:image/svg+xml;base64,", "data:image/png;base64,"])
def test_drawings_inside_of_an_address_are_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(BadImage, match="web page or a drawing"):
        store_for(tmp_path, FakeStudioServer({})).get(head + base64.b64encode(SVG).decode())


# pictures that unpack to more than they should


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG file of black pixels (1 bit each); none are there when it claims more than 10⁷."""
    body = zlib.compress(bytes(((width + 7) // 8 + 1) * height) if width * height < 10**7 else bytes(99))
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def gif_with_a_frame_larger_than_itself() -> bytes:
    small = io.BytesIO()
    Image.new("P", (8, 8)).save(small, "GIF")
    data = bytearray(small.getvalue())
    frame = data.index(b"\x2c\0\0\0\0")  # an image descriptor: left, top, width, height
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


BOMBS = {
    "png": png(20_000, 20_000),
    "larger png": png(50_000, 50_000),
    "png beyond 32 bits": png(2**31 - 1, 2**31 - 1),
    "bitmap": b"P4\n50000 50000\n",
    "gif": gif_with_a_frame_larger_than_itself(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_too_many_pixels_are_refused_before_they_are_unpacked(tmp_path: Path, name: str) -> None:
    settings = BackendSettings(data_dir=tmp_path)
    with pytest.raises(BadImage, match=r"pixels, more than|too large"):
        ImageStore(settings).put(BOMBS[name])
    with pytest.raises(BadImage, match=r"pixels, more than|too large"):
        decode_image(BOMBS[name], max_pixels=settings.max_image_pixels)
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_texts_and_profiles_that_unpack_without_end_are_refused(kind: bytes) -> None:
    extra = png_chunk(kind, b"name\0\0" + zlib.compress(bytes(100 * 2**20), 9))
    whole = png(8, 8, extra)
    assert len(whole) < 200_000
    with pytest.raises(BadImage, match="damaged"):
        decode_image(whole, max_pixels=10**6)
    assert decode_image(png(8, 8), max_pixels=10**6).shape == (8, 8, 3)
