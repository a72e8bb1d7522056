"""`init_project` on FakeStudio: what is made, what is found again, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from ml_backend.artifacts.project_facts import load_facts
from ml_backend.errors import BadImage, BadInput, BadLabelConfig
from sync.local.secrets import load_secrets
from sync.projects.init_project import InitReport, init_project
from sync.projects.option_changes import OptionChange
from sync.projects.pictures import find_images
from sync.rounds.project import open_project
from sync.settings import Settings
from sync.store.database import Store
from sync.studio.protocol import PATH_FIELD
from tests.fakes.label_studio import FakeStudio


class UploadStudio(FakeStudio):
    """Stores uploads under the name a real server gives them: a random part, then the cleaned name."""

    def _import(self, project_id: int, data: Any) -> list[int]:
        for n, item in enumerate(data):
            name = Path(str(item.get("image", ""))).name.replace(" ", "_")
            name = "".join(c for c in name if c.isalnum() or c in "-_.")
            if not str(item.get("image", "")).startswith("/data/"):
                item["image"] = f"/data/upload/{project_id}/{n:08x}-{name}"
        return super()._import(project_id, data)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for name in ("a.png", "b (copy 2).JPG", "inner/a.png", "inner/é.webp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(path, format="PNG" if path.suffix == ".png" else None)
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", webhook_secret="secret", backend_url="http://127.0.0.1:9090/")


Init = Callable[..., InitReport]


@pytest.fixture
def init(settings: Settings) -> Init:
    def call(studio: FakeStudio, **options: Any) -> InitReport:
        return init_project(
            studio, **{"title": "Some cells", "labels": ["RBC", "WBC"], "settings": settings, **options}
        )

    return call


def test_called_again_it_adds_only_what_is_missing(init: Init, pictures: Path) -> None:
    studio = UploadStudio()
    first = init(studio, images=pictures)
    assert first.created
    assert first.images_added == 4
    again = init(studio, images=pictures)
    assert (again.project_id, again.review_project_id) == (first.project_id, first.review_project_id)
    assert (again.created, again.images_added) == (False, 0)
    Image.new("RGB", (5, 4)).save(pictures / "inner" / "b (copy 2).JPG")
    assert init(studio, images=pictures).images_added == 1, "a second picture of the same name is another one"
    assert len(studio._of("backends", project=first.project_id)) == 1
    (hook,) = studio._of("webhooks", project=first.project_id)
    assert hook["url"] == "http://127.0.0.1:9090/webhook"


def paths_in(studio: FakeStudio, project_id: int) -> list[str]:
    return sorted(str(data[PATH_FIELD]) for _, data in studio.task_data(project_id))


@pytest.mark.parametrize("serve", ["upload", "local"])
def test_tasks_keep_the_path_below_the_folder_that_was_given(
    init: Init, pictures: Path, tmp_path: Path, serve: str
) -> None:
    studio = UploadStudio()
    made = init(studio, images=pictures, serve=serve, files_root=tmp_path)
    assert paths_in(studio, made.project_id) == ["a.png", "b (copy 2).JPG", "inner/a.png", "inner/é.webp"]


@pytest.mark.parametrize("serve", ["upload", "local"])
def test_pictures_of_equal_name_from_two_folders_all_get_in(init: Init, tmp_path: Path, serve: str) -> None:
    for folder, colour in (("monday", 10), ("tuesday", 200)):
        (tmp_path / folder).mkdir()
        for name in ("1.png", "2.png"):
            Image.new("L", (5, 4), colour).save(tmp_path / folder / name)
    studio = UploadStudio()
    first = init(studio, images=tmp_path / "monday", serve=serve, files_root=tmp_path)
    second = init(studio, images=tmp_path / "tuesday", serve=serve, files_root=tmp_path)
    assert (first.images_added, second.images_added) == (2, 2)
    names = paths_in(studio, first.project_id)
    assert len(set(names)) == 4
    assert {"1.png", "2.png"} < set(names)
    assert len(second.renamed) == 2
    assert "tuesday" in second.renamed[0]
    for given in (tmp_path / "monday", tmp_path / "tuesday", [tmp_path / "tuesday" / "2.png"]):
        again = init(studio, images=given, serve=serve, files_root=tmp_path)
        assert (again.images_added, again.renamed) == (0, ())
    assert init(studio, images=tmp_path, serve=serve, files_root=tmp_path).images_added == 0


def test_tasks_of_unknown_content_are_taken_to_be_there_but_not_in_silence(
    init: Init, pictures: Path
) -> None:
    studio, lines = UploadStudio(), []
    made = init(studio)
    studio.import_tasks(made.project_id, [{"image": "/data/upload/1/0123abcd-a.png"}])
    assert init(studio, images=pictures, report=lines.append).images_added == 3
    assert any("not uploaded again" in line and "a.png" in line for line in lines)


def test_a_list_of_pictures_will_do(init: Init, pictures: Path) -> None:
    studio = UploadStudio()
    assert init(studio, images=[pictures / "a.png", pictures / "inner" / "a.png"]).images_added == 2
    with pytest.raises(BadImage, match="no pictures"):
        init(studio, images=[pictures / "notes.txt"])


def test_pictures_can_stay_where_they_are(init: Init, pictures: Path, tmp_path: Path) -> None:
    studio = FakeStudio()
    made = init(studio, images=pictures, serve="local", files_root=tmp_path)
    assert made.images_added == 4
    values = set(studio.task_values(made.project_id, "image"))
    assert "/data/local-files/?d=pictures/inner/a.png" in values
    assert init(studio, images=pictures, serve="local", files_root=tmp_path).images_added == 0
    with pytest.raises(BadInput, match="--files-root"):
        init(studio, images=pictures, serve="local")


def test_served_pictures_may_have_any_name(init: Init, tmp_path: Path) -> None:
    folder = tmp_path / "R&D #2"
    folder.mkdir()
    names = ["a&b=c.png", "50%25 + x.png", "ü #1.png"]
    for shade, name in enumerate(names):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / name)
    studio = FakeStudio()
    made = init(studio, images=folder, serve="local", files_root=tmp_path)
    values = list(studio.task_values(made.project_id, "image"))
    read = [parse_qs(urlsplit(value).query) for value in values]
    assert sorted(query["d"][0] for query in read) == sorted(f"R&D #2/{name}" for name in names)
    assert all(set(query) == {"d"} for query in read)
    assert init(studio, images=folder, serve="local", files_root=tmp_path).images_added == 0


def test_files_that_are_no_pictures_are_listed(pictures: Path) -> None:
    (pictures / "fake.png").write_bytes(b"this is no picture")
    (pictures / "cut.png").write_bytes((pictures / "a.png").read_bytes()[:40])
    good, refused = find_images(pictures)
    assert len(good) == 4
    assert sorted(Path(line.split(": ")[0]).name for line in refused) == ["cut.png", "fake.png"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"title": "ab"}, BadInput, "2 characters"),
        ({"title": "x" * 51}, BadInput, "51 characters"),
        ({"labels": []}, BadLabelConfig, "at least one label"),
        ({"labels": ["A", "A"]}, BadLabelConfig, "twice"),
        ({"options": {"poll_s": 3}}, BadInput, "poll_s"),
        ({"options": {"min_finished": "many"}}, BadInput, "min_finished"),
        ({"images": Path("/nowhere/at/all")}, BadInput, "no folder"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_made(
    init: Init, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    studio = FakeStudio()
    with pytest.raises(error, match=match):
        init(studio, **options)
    assert studio.projects() == []


def test_a_project_of_this_title_with_other_labels_is_left_alone(init: Init) -> None:
    studio = FakeStudio()
    made = init(studio)
    with pytest.raises(BadInput, match="RBC, WBC"):
        init(studio, labels=["RBC", "Platelets"])
    assert init(studio, labels=["WBC"]).project_id == made.project_id
    assert len(studio.projects()) == 2


def test_without_a_webhook_secret_nothing_is_connected(init: Init, tmp_path: Path) -> None:
    studio = FakeStudio()
    with pytest.raises(BadInput, match="GROUNDSWELL_WEBHOOK_SECRET"):
        init(studio, settings=Settings(data_dir=tmp_path / "data"))
    assert studio.projects() == []
    assert not (tmp_path / "data").exists()


def test_without_settings_those_of_groundswell_up_count(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secrets = load_secrets(tmp_path / "groundswell-data")  # what `up` does first
    studio = UploadStudio()
    made = init_project(studio, title="Some cells", labels=["RBC"], images=pictures)
    (hook,) = studio._of("webhooks", project=made.project_id)
    assert hook["secret"] == secrets.webhook_secret
    assert made.training == "0 of 5 finished tasks until the first training, then one for every 20 more"


def test_options_of_a_project_that_exists_are_merged_after_they_were_told(
    init: Init, settings: Settings
) -> None:
    studio = FakeStudio()
    init(studio, options={"retrain_after": 7, "seed": 1})
    told: list[dict[str, tuple[Any, Any]]] = []

    def note(changes: Sequence[OptionChange], effects: Sequence[str]) -> None:
        told.append({change.name: (change.old, change.new) for change in changes})
        assert effects

    made = init(studio, options={"seed": 2}, on_change=note)
    assert told == [{"seed": (1, 2)}]
    assert load_facts(settings.data_dir, made.project_id).options == {"retrain_after": 7, "seed": 2}
    init(studio, options={"seed": 2}, on_change=note)
    init(studio, on_change=note)
    assert len(told) == 1

    def refuse(changes: Sequence[OptionChange], effects: Sequence[str]) -> None:
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        init(studio, options={"seed": 3}, on_change=refuse)
    opened = open_project(settings, Store(settings.database()), studio, made.project_id)
    assert (opened.settings.seed, opened.settings.retrain_after) == (2, 7)


def test_facts_and_options_reach_backend_and_worker(init: Init, settings: Settings) -> None:
    studio = FakeStudio()
    made = init(
        studio, output="polygon", segmenter="classical", options={"min_finished": 9, "preset": "full"}
    )
    facts = load_facts(settings.data_dir, made.project_id)
    assert facts.labels == ("RBC", "WBC")
    assert facts.segmenter == "classical"
    assert facts.review_project_id == made.review_project_id
    assert facts.config.outputs[0].type == "polygon"
    project = open_project(settings, Store(settings.database()), studio, made.project_id)
    assert (project.settings.min_finished, project.settings.preset) == (9, "full")
    init(studio)
    assert load_facts(settings.data_dir, made.project_id).segmenter == "classical", "kept"


def test_crowd_workers_can_have_a_label_studio_of_their_own(init: Init) -> None:
    studio, crowd = FakeStudio(), FakeStudio()
    made = init(studio, review_client=crowd)
    assert [row.id for row in studio.projects()] == [made.project_id]
    assert [row.id for row in crowd.projects()] == [made.review_project_id]


def test_links_lead_where_browsers_reach_each_server(
    init: Init, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = settings.model_copy(update={"studio_public_url": "https://labels.example"})
    studio, crowd = FakeStudio(), FakeStudio()
    made = init(studio, settings=public)
    assert made.url == f"https://labels.example/projects/{made.project_id}/data"
    assert made.review_url == f"https://labels.example/projects/{made.review_project_id}/data"
    for address, shown in (
        ("https://crowd.example", "https://crowd.example"),
        (settings.studio_url, "https://labels.example"),  # the same server, with another key
    ):
        monkeypatch.setattr(crowd, "url", address, raising=False)
        made = init(studio, settings=public, review_client=crowd)
        assert made.review_url == f"{shown}/projects/{made.review_project_id}/data"


def test_groups_reach_tasks_and_worker(init: Init, pictures: Path, settings: Settings) -> None:
    studio = UploadStudio()
    first = init(studio, images=pictures)
    table = pictures.parent / "groups.csv"
    table.write_text("file,group\na.png,p1\npictures/inner/a.png,p2\nnot here.png,p3\n")
    (pictures / "new.png").write_bytes((pictures / "a.png").read_bytes() + b"more")
    table.write_text(table.read_text() + "new.png,p1\n")
    made = init(studio, images=pictures, groups=table)
    assert (made.project_id, made.images_added) == (first.project_id, 1)
    found = {str(data[PATH_FIELD]): data.get("group") for _, data in studio.task_data(made.project_id)}
    assert {name: group for name, group in found.items() if group} == {
        "a.png": "p1",
        "inner/a.png": "p2",
        "new.png": "p1",
    }
    assert len(found) == 5
    with_options = open_project(settings, Store(settings.database()), studio, made.project_id)
    assert with_options.settings.split_by == "group"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,group\nnobody.png,p1\n", "no row of"),
        ("name,group\na.png,p1\n", "no column .file."),
        ("file,group\na.png,\n", "a file and a group are needed"),
    ],
)
def test_tables_of_groups_are_checked_before_anything_is_made(
    init: Init, pictures: Path, text: str, said: str
) -> None:
    table = pictures.parent / "groups.csv"
    table.write_text(text)
    studio = UploadStudio()
    with pytest.raises(BadInput, match=said):
        init(studio, images=pictures, groups=table)
    assert studio.projects() == []
