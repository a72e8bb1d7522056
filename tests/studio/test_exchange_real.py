"""Import, export and buckets on a real Label Studio."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ml_backend.errors import StudioError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.config_builder import build_label_config
from sync.exchange.export import export_project
from sync.exchange.import_labels import import_labels
from sync.exchange.import_regions import LabelNames
from sync.exchange.import_report import ImportReport, ProblemFile
from sync.exchange.import_targets import ImportPlan, digest_of_result
from sync.exchange.readers.registry import open_reader
from sync.projects.buckets import add_bucket, parse_bucket
from sync.rounds.project import OpenProject, open_project
from sync.rounds.pull import pull
from sync.rounds.registration import register_project
from sync.settings import Settings
from sync.store.database import Store
from sync.studio.client import Studio
from tests.conftest import LOGIN, free_port
from tests.sync.steps import step

pytestmark = pytest.mark.studio
HW = (40, 60)


@pytest.fixture
def opened(studio: Studio, tmp_path: Path) -> Iterator[OpenProject]:
    """A project with three uploaded pictures, as a worker opens it."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for n, name in enumerate(("a b.png", "deep/c.png", "d.png")):
        Image.new("RGB", (HW[1], HW[0]), (n, 9, 9)).save(tmp_path / "images" / name)
    config = build_label_config(("cell",), kind="instances", clicks=False)
    config = config.replace(
        "<Image ",
        '<Choices name="state" toName="image" choice="single"><Choice value="fresh"/><Choice value="dry"/>'
        "</Choices><Image ",
    )
    row = studio.create_project("exchange", config)
    settings = Settings(data_dir=tmp_path / "data", studio_url=studio.url, studio_token=LOGIN.token)
    store = Store(settings.database())
    register_project(settings, store, studio, row.id)
    studio.upload_images(row.id, sorted((tmp_path / "images").rglob("*.png")))
    yield open_project(settings, store, studio, row.id)
    store.close()
    studio.delete_project(row.id)


def bring_in(opened: OpenProject, format: str, path: Path, **options: Any) -> ImportReport:
    names = LabelNames(opened.config.labels, {})
    plan = ImportPlan(format, **options)
    reader = open_reader(format, path, names.known)
    with ProblemFile(None) as problems:
        return import_labels(
            opened.studio, opened.id, opened.config, opened.images, reader, names, plan, problems
        )


def test_what_is_imported_comes_out_again(opened: OpenProject, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    masks = []
    for _ in range(2):
        mask = np.zeros(HW, np.uint8)
        y, x = rng.integers(2, 15, 2)
        mask[y : y + 14, x : x + 20] = 1
        mask[y + 3 : y + 6, x + 4 : x + 9] = 0
        masks.append(coco_mask.encode(np.asfortranarray(mask)))
    names = ("a b.png", "images/deep/c.png", "d.png")
    images = [{"id": n, "file_name": name, "height": HW[0], "width": HW[1]} for n, name in enumerate(names)]
    rows = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "segmentation": {"size": list(HW), "counts": rle["counts"].decode()},
            "score": 0.8,
        }
        for n, rle in enumerate(masks)
    ]
    document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cell"}]}
    path = tmp_path / "in.json"
    path.write_text(json.dumps(document))
    (tmp_path / "in.csv").write_text("file,label\na b.png,fresh\nd.png,dry\n")

    found = bring_in(opened, "coco", path, kind="predictions", version="import-in")
    assert (found.created, found.rejected, found.shown) == (3, 0, True)
    assert bring_in(opened, "coco", path, kind="predictions", version="import-in").there == 3

    assert bring_in(opened, "coco", path).created == 3
    again = bring_in(opened, "coco", path)
    assert (again.created, again.updated, again.there, again.untouched) == (0, 0, 3, 0)
    both = bring_in(opened, "csv", tmp_path / "in.csv")
    assert (both.updated, both.untouched) == (2, 0)
    for file, format in ((path, "coco"), (tmp_path / "in.csv", "csv")):
        again = bring_in(opened, format, file)
        assert (again.created, again.updated, again.untouched) == (0, 0, 0)
    for task in opened.studio.tasks(opened.id):
        (annotation,) = task.annotations
        assert annotation.import_id == digest_of_result(annotation.result)
        assert not annotation.ground_truth
        assert task.is_labeled

    step(pull, opened)
    done = step(export_project, opened, tmp_path / "out.json")
    assert (done.images, done.annotations, done.other_labels) == (3, {"human": 2}, ["fresh", "dry"])
    coco = COCO(str(tmp_path / "out.json"))
    by_name = {image["file_name"]: image["id"] for image in coco.loadImgs(coco.getImgIds())}
    for n, stored in enumerate(("a_b.png", "c.png")):
        (row,) = coco.loadAnns(coco.getAnnIds(by_name[stored]))
        assert float(coco_mask.iou([coco.annToRLE(row)], [masks[n]], [0])[0, 0]) == 1.0

    assert isinstance(opened.studio, Studio)
    first = next(iter(opened.studio.tasks(opened.id)))
    opened.studio.update_annotation(first.annotations[0].id, [])  # a person empties it
    assert bring_in(opened, "coco", path).untouched == 1


def test_a_key_is_taken_once(opened: OpenProject) -> None:
    from sync.studio.protocol import ImportedAnnotation

    task = min(opened.studio.task_ids(opened.id))
    row = ImportedAnnotation(task, [], "00000000-0000-4000-8000-00000000000a", 5)
    assert opened.studio.import_annotations([row]) == 1
    assert opened.studio.import_annotations([row]) == 0
    assert [one.import_id for one in opened.studio.task(task).annotations] == [5]


class _Bucket(BaseHTTPRequestHandler):
    """What boto needs of S3: is the bucket there, what is in it, and the objects."""

    objects: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(200 if self._path[0] == "pictures" else 404, b"")

    def do_GET(self) -> None:
        bucket, key = self._path
        if bucket != "pictures":
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif key:
            self._answer(200, self.objects[key])
        else:
            query = parse_qs(urlsplit(self.path).query)
            prefix = query.get("prefix", [""])[0]
            found = [key for key in sorted(self.objects) if key.startswith(prefix)]
            rows = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(self.objects[key])}</Size>"
                "<LastModified>2024-05-01T00:00:00.000Z</LastModified><ETag>e</ETag></Contents>"
                for key in found
            )
            text = f"<ListBucketResult><Name>pictures</Name><KeyCount>{len(found)}</KeyCount>"
            text += f"<IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
            self._answer(200, text.encode())

    @property
    def _path(self) -> tuple[str, str]:
        bucket, _, key = urlsplit(self.path).path.strip("/").partition("/")
        return bucket, key

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "in-bucket.png"
    Image.new("RGB", (20, 10), (200, 0, 0)).save(path)
    _Bucket.objects = {"may/1.png": path.read_bytes(), "may/deep/2.PNG": path.read_bytes(), "may/x.txt": b"x"}
    server = ThreadingHTTPServer(("127.0.0.1", free_port()), _Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_pictures_of_a_bucket(opened: OpenProject, endpoint: str) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    keys["AWS_ENDPOINT_URL"] = endpoint
    bucket = parse_bucket("s3://pictures/may/", keys)
    assert add_bucket(opened.studio, opened.id, bucket, dry_run=True) == 0
    assert len(opened.studio.task_ids(opened.id)) == 3
    assert add_bucket(opened.studio, opened.id, bucket) == 2
    assert add_bucket(opened.studio, opened.id, bucket) == 0
    tasks = opened.studio.task_values(opened.id, "image")
    mine = {address: task for address, task in tasks.items() if address.startswith("s3:")}
    assert sorted(mine) == ["s3://pictures/may/1.png", "s3://pictures/may/deep/2.PNG"]
    fields = {**bucket.fields, "title": "of a person", "regex_filter": ".*none"}
    assert opened.studio.ensure_storage(opened.id, "s3", fields) == opened.studio.ensure_storage(
        opened.id, "s3", bucket.fields
    )
    with pytest.raises(StudioError, match="anything below this prefix"):
        add_bucket(opened.studio, opened.id, parse_bucket("s3://pictures/june", keys), dry_run=True)
    # the worker gets the picture through Label Studio, which signs its address
    images = ImageStore(opened.settings.model_copy(update={"allow_image_hosts": endpoint.split("//")[1]}))
    address, task = min(mine.items())
    assert images.get(address, task_id=task, project_id=opened.id).hw == (10, 20)


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_import_doubles_nothing(studio: Studio, tmp_path: Path) -> None:
    count = 160
    row = studio.create_project("killed import", build_label_config(("cell",), kind="boxes", clicks=False))
    settings = Settings(data_dir=tmp_path / "data", studio_url=studio.url, studio_token=LOGIN.token)
    store = Store(settings.database())
    register_project(settings, store, studio, row.id)
    store.close()
    names = [f"{n:03d}.jpg" for n in range(count)]
    studio.import_tasks(row.id, [{"image": f"https://nowhere.example/{name}"} for name in names])
    images = [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 10 + n % 40, 20]} for n in range(count)
    ]
    path = tmp_path / "in.json"
    path.write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]})
    )
    words = ["import", "--project", str(row.id), "--format", "coco", str(path), "--json"]
    words += ["--data-dir", str(tmp_path / "data"), "--studio-url", studio.url]
    command = [sys.executable, "-m", "sync.cli", *words]
    environment = {**os.environ, "GROUNDSWELL_API_KEY": LOGIN.token}

    def held() -> list[int]:
        return [len(task.annotations) for task in studio.tasks(row.id)]

    def held_in_the_end() -> int:
        """The server still carries out a request that the killed process had sent: wait until it is quiet."""
        count = sum(held())
        deadline = time.monotonic() + 60
        quiet = 0
        while quiet < 10 and time.monotonic() < deadline:
            time.sleep(0.1)
            now = sum(held())
            quiet = quiet + 1 if now == count else 0
            count = now
        return count

    before = 0
    for _ in range(2):
        child = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
        while sum(held()) < before + 10 and child.poll() is None:
            time.sleep(0.02)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL  # it was in the middle of it
        before = held_in_the_end()
        assert before < count
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert (told["created"] + told["there"], told["there"]) == (count, before)
    assert held() == [1] * count
    again = json.loads(subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True).stdout)
    assert (again["there"], again["created"], again["updated"]) == (count, 0, 0)
    for task in studio.tasks(row.id):
        (annotation,) = task.annotations
        assert annotation.import_id == digest_of_result(annotation.result)
    studio.delete_project(row.id)
