"""More pictures for a project: from a list of addresses, from a bucket, from a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from ml_backend.errors import BadInput, StudioError
from ml_backend.label_studio.config_builder import build_label_config
from sync.cli import build_app
from sync.projects.address_tasks import add_addresses, check_hosts, read_addresses
from sync.projects.buckets import add_bucket, parse_bucket
from tests.fakes.label_studio import FakeStudio
from tests.sync.conftest import World

CONFIG = build_label_config(("x",))
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1"}


@pytest.fixture
def studio() -> FakeStudio:
    return FakeStudio()


@pytest.fixture
def project(studio: FakeStudio) -> int:
    return studio.create_project("Pictures", CONFIG).id


def test_addresses_become_tasks_once(studio: FakeStudio, project: int, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    lines = [
        "https://a.example/1.jpg",
        "# a note",
        "",
        "https://a.example/1.jpg",
        "s3://b/2.png",
        "/etc/passwd",
    ]
    lines += ["https://me:secret@a.example/3.jpg", "https://a.example/a b.jpg", "file:///x.png", "http://"]
    path.write_text("\n".join(lines))
    dry = add_addresses(studio, project, "image", read_addresses(path), dry_run=True)
    assert (dry.count, dry.there, studio.task_ids(project)) == (2, 1, set())
    done = add_addresses(studio, project, "image", read_addresses(path))
    assert (done.count, done.there) == (2, 1)
    assert [line.partition(":")[0] for line in done.refused] == [
        "line 6",
        "line 7",
        "line 8",
        "line 9",
        "line 10",
    ]
    assert "secret" not in " ".join(done.refused)
    (tmp_path / "list.csv").write_text("name,url\na,https://a.example/1.jpg\nb,https://a.example/4.jpg\n")
    done = add_addresses(studio, project, "image", read_addresses(tmp_path / "list.csv"))
    assert (done.count, done.there) == (1, 1)
    assert sorted(studio.task_values(project, "image")) == [
        "https://a.example/1.jpg",
        "https://a.example/4.jpg",
        "s3://b/2.png",
    ]
    (tmp_path / "bad.csv").write_text("name\na\n")
    with pytest.raises(BadInput, match="no column url"):
        list(read_addresses(tmp_path / "bad.csv"))


def test_a_host_that_the_worker_may_not_read_is_said_before(tmp_path: Path) -> None:
    world = World(tmp_path / "w", 1)
    with pytest.raises(BadInput, match="line 1 cannot be read here") as caught:
        check_hosts(world.open().images, world.project_id, [(1, "https://a.example/1.jpg")])
    assert "GROUNDSWELL_ALLOW_IMAGE_HOSTS" in caught.value.hint


def test_a_bucket_takes_its_keys_from_the_environment(tmp_path: Path) -> None:
    bucket = parse_bucket("s3://pictures/2024/may/", KEYS)
    assert bucket.kind == "s3"
    assert {
        name: bucket.fields[name] for name in ("bucket", "prefix", "aws_access_key_id", "region_name")
    } == {
        "bucket": "pictures",
        "prefix": "2024/may",
        "aws_access_key_id": "key",
        "region_name": "eu-west-1",
    }
    assert "secret" not in repr(bucket)
    (tmp_path / "google.json").write_text('{"type": "service_account"}')
    google = parse_bucket("gs://p", {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "google.json")})
    assert google.fields["google_application_credentials"] == '{"type": "service_account"}'
    azure = parse_bucket("azure-blob://box/a", {"AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_KEY": "k"})
    assert (azure.kind, azure.fields["container"], azure.fields["account_key"]) == ("azure", "box", "k")
    with pytest.raises(BadInput, match="AWS_ACCESS_KEY_ID is not set"):
        parse_bucket("s3://pictures", {})
    assert "aws_access_key_id" not in parse_bucket("s3://pictures", KEYS, server_credentials=True).fields
    for address, text in (("ftp://x/y", "no address of a bucket"), ("s3://key:secret@b/c", "do not belong")):
        with pytest.raises(BadInput, match=text):
            parse_bucket(address, KEYS)
    with pytest.raises(BadInput, match="cannot be read"):
        parse_bucket("gs://p", {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")})


def test_a_bucket_is_listed_once_and_again(studio: FakeStudio, project: int) -> None:
    studio.bucket_objects = [
        "s3://pictures/a/1.jpg",
        "s3://pictures/a/2.JPG",
        "s3://pictures/a/x.txt",
        "s3://o/3.jpg",
    ]
    bucket = parse_bucket("s3://pictures/a", KEYS)
    assert add_bucket(studio, project, bucket, dry_run=True) == 0
    assert add_bucket(studio, project, bucket) == 2
    assert add_bucket(studio, project, bucket) == 0
    studio.bucket_objects.append("s3://pictures/a/4.png")
    assert add_bucket(studio, project, bucket) == 1
    with pytest.raises(StudioError, match="not found"):
        add_bucket(studio, project, parse_bucket("s3://nothing", KEYS), dry_run=True)


def test_a_storage_that_a_person_made_is_used_as_it_is(studio: FakeStudio, project: int) -> None:
    studio.bucket_objects = ["s3://pictures/a/1.jpg", "s3://pictures/a/2.jpg"]
    mine = {"bucket": "pictures", "prefix": "a", "title": "mine", "regex_filter": ".*1.jpg"}
    number = studio.ensure_storage(project, "s3", mine)
    assert add_bucket(studio, project, parse_bucket("s3://pictures/a", KEYS)) == 1
    assert studio._get("storages", number)["fields"] == mine
    assert add_bucket(studio, project, parse_bucket("s3://pictures/a", KEYS)) == 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[int, Any]]]:
    """Commands on a small project: exit code, and what was printed as JSON."""
    from sync.installation import Installation

    world = World(tmp_path / "world", 3)

    def installation(*_: Any, **__: Any) -> Installation:
        return Installation(world.settings, world.store, world.studio, None)

    monkeypatch.setattr("sync.installation.open_installation", installation)
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> tuple[int, Any]:
        result = CliRunner().invoke(build_app(), [*words, "--project", str(world.project_id), "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, json.loads(result.stdout)

    yield command
    world.store.close()


def test_the_commands(run: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    more = tmp_path / "images3" / "more"  # a folder that the worker may read
    more.mkdir()
    for number in range(2):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(more / f"new{number}.png")
    (more / "broken.png").write_bytes(b"no")
    assert run("add-images", str(more), "--dry-run")[1]["added"] == 2
    code, done = run("add-images", str(more))
    assert (code, done["added"], done["there"], len(done["refused"])) == (3, 2, 0, 1)
    assert run("add-images", str(more))[1] | {"refused": []} == {
        "added": 0, "there": 2, "refused": [], "dry_run": False,
    }  # fmt: skip
    images = [{"id": n, "file_name": f"new{n}.png", "height": 48, "width": 64} for n in range(2)]
    ring = [4, 4, 20, 4, 20, 20, 4, 20]
    rows = [{"id": 1, "image_id": n, "category_id": 1 + n, "segmentation": [ring]} for n in range(2)]
    names = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": names}))
    line = ("import", "c.json", "--format", "coco", "--images", str(more))
    code, done = run(*line, "--dry-run")
    assert (code, done["created"], done["rejected"], done["report_file"]) == (3, 1, 1, "import-report.csv")
    code, done = run(*line, "--map", "square=bar", "--report", "all.json")
    assert (code, done["created"], done["rejected"], done["report_file"]) == (0, 2, 0, "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == []
    assert run(*line, "--map", "square=bar")[1]["there"] == 2
    code, done = run("import", "c.json", "--format", "coco", "--as", "predictions", "--map", "square=")
    assert (code, done["created"], done["version"], done["left_out"]) == (0, 2, "import-c", 1)
    code, done = run("export", "--format", "yolo", "--with-images", "--out", "out")
    assert (code, done["images"], done["human"]) == (0, 2, 2)
    assert (tmp_path / "out" / "labels" / "new0.txt").read_text().startswith("0 ")
    with pytest.raises(BadInput, match="neither"):
        run("import", "c.json", "--format", "coco", "--as", "gold")


def test_a_dry_run_of_served_pictures_counts_those_that_would_be_served(
    run: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    for name in ("one", "two"):  # the same name and content, in two folders
        (tmp_path / "images3" / name).mkdir()
        Image.new("RGB", (64, 48), (9, 0, 0)).save(tmp_path / "images3" / name / "a.png")
    line = ("--serve", "local", "--files-root", str(tmp_path))
    for name in ("one", "two"):
        words = ("add-images", str(tmp_path / "images3" / name), *line)
        assert run(*words, "--dry-run")[1]["added"] == 1
        assert run(*words)[1]["added"] == 1
        assert run(*words, "--dry-run")[1]["added"] == 0
    with pytest.raises(BadInput, match="is not below"):
        run(
            "add-images",
            str(tmp_path / "images3"),
            "--serve",
            "local",
            "--files-root",
            "/nowhere",
            "--dry-run",
        )


def test_addresses_with_half_a_bracket_are_refused(studio: FakeStudio, project: int, tmp_path: Path) -> None:
    world = World(tmp_path / "w", 1)
    check_hosts(world.open().images, world.project_id, [(1, "http://[bad/1.jpg")])  # no host to ask
    done = add_addresses(studio, project, "image", [(1, "http://[bad/1.jpg")])
    assert (done.count, len(done.refused)) == (0, 1)
    with pytest.raises(BadInput, match="no address of a bucket"):
        parse_bucket("s3://[bad", KEYS)
