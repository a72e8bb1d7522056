"""The image cache: what may share an entry, what is looked at again, what happens when a file vanishes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import ml_backend.images.fetch
import ml_backend.images.store
from ml_backend.errors import BadImage
from tests.ml_backend.helpers import STUDIO, FakeStudioServer, image_bytes
from tests.ml_backend.images.test_images import PNG, store_for

OTHER = image_bytes((10, 20), seed=5)


def test_projects_do_not_share_what_label_studio_resolves_for_them(tmp_path: Path) -> None:
    server = FakeStudioServer({"/projects/4/resolve/": PNG, "/projects/5/resolve/": OTHER})
    store = store_for(tmp_path, server)
    for _ in range(2):
        assert store.get("s3://bucket/a.png", project_id=4).hw == (40, 60)
        assert store.get("s3://bucket/a.png", project_id=5).hw == (10, 20)
    assert len(server.requests) == 2


def test_projects_do_not_share_local_files(tmp_path: Path) -> None:
    server = FakeStudioServer({"/data/local-files/": PNG})
    store = store_for(tmp_path, server)
    store.get("/data/local-files/?d=a.png", project_id=4)
    server.routes["/data/local-files/"] = (403, {}, b"")  # the other project's user may not see it
    with pytest.raises(BadImage, match="403"):
        store.get("/data/local-files/?d=a.png", project_id=5)
    assert store.get("/data/local-files/?d=a.png", project_id=4).hw == (40, 60)


@pytest.mark.parametrize(
    "address", ["s3://bucket/a.png", "/data/upload/1/a.png", "data/local-files/?d=a.png"]
)
def test_hosts_do_not_share_relative_addresses(tmp_path: Path, address: str) -> None:
    here, there = "http://one.test", "http://two.test"
    for host, data, hw in ((here, PNG, (40, 60)), (there, OTHER, (10, 20))):
        paths = ("/data/upload/1/a.png", "/data/local-files/", "/tasks/7/resolve/")
        server = FakeStudioServer({f"{host}{path}": data for path in paths})
        store = store_for(tmp_path, server, studio_url=host)
        assert store.get(address, task_id=7).hw == hw


@pytest.mark.parametrize(
    ("address", "lasts"),
    [
        ("/data/upload/1/a.png", True),
        (f"{STUDIO}/data/upload/1/a.png", True),
        ("/data/local-files/?d=data/upload/a.png", False),
        ("/data/local-files/?d=/data/upload/a.png", False),
        ("https://pictures.test/data/upload/a.png", False),
        ("https://pictures.test/a.png?of=/data/upload/1/a.png", False),
        ("s3://bucket/data/upload/a.png", False),
        ("/storage-data/uploaded/?filepath=/data/upload/1/a.png", False),
    ],
)
def test_only_uploads_are_never_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, lasts: bool
) -> None:
    monkeypatch.setattr(ml_backend.images.store, "_MUTABLE_AGE_S", -1.0)
    server = FakeStudioServer(
        {
            "/data/upload/1/a.png": PNG,
            "/data/local-files/": PNG,
            "/tasks/7/resolve/": PNG,
            "/storage-data/uploaded/": PNG,
            "https://pictures.test/data/upload/a.png": PNG,
            "https://pictures.test/a.png": PNG,
        }
    )
    store = store_for(tmp_path, server, allow_image_hosts="pictures.test")
    for _ in range(2):
        store.get(address, task_id=7)
    assert len(server.requests) == (1 if lasts else 2)


def test_a_picture_that_another_process_evicts_is_fetched_again(tmp_path: Path) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": PNG})
    store = store_for(tmp_path, server)
    ref = store.get("/data/upload/1/a.png", task_id=7)
    ref.path.unlink()  # another process makes room
    assert store.pixels(ref).shape == (40, 60, 3)
    assert ref.path.exists()
    assert len(server.requests) == 2


def test_a_picture_that_changed_while_it_was_evicted_is_an_error(tmp_path: Path) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": PNG})
    store = store_for(tmp_path, server)
    ref = store.get("/data/upload/1/a.png")
    ref.path.unlink()
    server.routes["/data/upload/1/a.png"] = OTHER
    with pytest.raises(BadImage, match="changed"):
        store.pixels(ref)


def test_eviction_spares_what_was_asked_for_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": PNG})
    first, second = (store_for(tmp_path, server, image_disk_bytes=1) for _ in range(2))
    ref = first.get("/data/upload/1/a.png")
    old = time.time() - 90_000
    os.utime(ref.path, (old, old))
    plain = ml_backend.images.store.ImageStore._files

    def then_asked_for(self: ml_backend.images.store.ImageStore) -> object:
        found = plain(self)
        assert first.get("/data/upload/1/a.png") == ref
        return found

    monkeypatch.setattr(ml_backend.images.store.ImageStore, "_files", then_asked_for)
    second.put(OTHER)
    assert ref.path.exists()


def test_decoded_pictures_are_bounded_by_bytes(tmp_path: Path) -> None:
    size = 40 * 60 * 3
    store = store_for(tmp_path, FakeStudioServer({}), image_ram_bytes=3 * size)
    for seed in range(10):
        store.pixels(store.put(image_bytes(seed=seed)))
        assert store.ram_bytes <= 3 * size
    assert store.ram_bytes == 3 * size


def test_uploads_that_differ_in_their_query_are_fetched_each(tmp_path: Path) -> None:
    server = FakeStudioServer({"/data/upload/1/a.png": PNG})
    store = store_for(tmp_path, server)
    for version in (1, 2, 1):
        store.get(f"/data/upload/1/a.png?v={version}", task_id=7)
    assert len(server.requests) == 2
