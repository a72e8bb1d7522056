"""The example for admins who script, run as it is: a real Label Studio, a worker, and people who label."""

from __future__ import annotations

import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk import LabelStudio
from PIL import Image

from examples import look_after_project as care
from examples.label_by_script import label_and_export
from ml_backend.errors import BadInput
from ml_backend.label_studio.label_config import parse_label_config
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region
from ml_backend.learners.registry import LEARNERS
from ml_backend.masks.rle import encode_mask
from sync.installation import open_installation
from sync.settings import Settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from sync.worker.loop import Worker
from tests.conftest import LOGIN
from tests.studio.conftest import Site
from tests.sync import tiny_learner

pytestmark = pytest.mark.studio

REPO = Path(__file__).resolve().parents[2]
KILL_SITE = REPO / "tests" / "sync" / "kill_site"
HW = (48, 64)
VARIABLES = (
    "data_dir",
    "studio_url",
    "studio_token",
    "backend_url",
    "webhook_secret",
    "signing_key",
    "basic_auth_user",
    "basic_auth_pass",
)


@pytest.fixture
def environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the site as environment variables; the tiny learner known to every process."""
    for name in VARIABLES:
        value = getattr(site.settings, name)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else str(value)
        monkeypatch.setenv(f"GROUNDSWELL_{name.upper()}", text)
    monkeypatch.setitem(LEARNERS, tiny_learner.NAME, tiny_learner.TARGET)
    paths = [str(KILL_SITE), str(REPO), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    return site.settings


def _disc(number: int) -> Any:
    y, x = np.mgrid[: HW[0], : HW[1]]
    return (x - 20 - number) ** 2 + (y - 24) ** 2 <= 64


def _people(title: str, url: str, stop: threading.Event) -> None:
    """Somebody finishes every task of the project, as soon as it is there, through Label Studio's API."""
    client = LabelStudio(base_url=url, api_key=LOGIN.token)
    done: set[int] = set()
    while not stop.wait(0.5):
        for project in client.projects.list():
            if project.title != title:
                continue
            config = parse_label_config(project.label_config or "")
            for task in list(client.tasks.list(project=project.id))[:5]:
                if task.id in done:
                    continue
                number = int(str(task.data["groundswell_path"]).split(".")[0])
                box = (0.0, 0.0, 1.0, 1.0)
                region = Region("r0", "mask", "disc", encode_mask(_disc(number)), box)
                client.annotations.create(id=task.id, result=to_result([region], config, HW), lead_time=5.0)
                done.add(task.id)


def _look_after(title: str, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second example, on the project that the first has made."""
    made = open_installation(None)
    client = LabelStudio(base_url=site.studio.url, api_key=LOGIN.token)
    number = care.find_project(client, title)
    assert sum(care.annotated_by(client, number).values()) == 5
    capsys.readouterr()
    care.change(made, number, {"retrain_after": 7})
    assert "retrain_after: 20 → 7" in capsys.readouterr().out
    with pytest.raises(BadInput, match="retrain_after"):
        care.change(made, number, {"retrain_after": -1})
    assert care.figures(made, number)["id"] == number
    care.train_now(made, number)
    with made.store.read() as session:
        record = session.get_one(ProjectRecord, number)
    assert record.options["retrain_after"] == 7
    assert record.paused == ""
    assert record.round_wanted is not None
    care.export_drawn(made, number, tmp_path / "drawn.json")
    drawn = json.loads((tmp_path / "drawn.json").read_text())
    assert len(drawn["annotations"]) == 5
    left = care.end(made, number)
    assert left.disconnected >= 1
    assert left.problem == ""
    assert len(site.studio.task_ids(number)) == 7


def test_the_example_goes_from_pictures_to_an_export(
    site: Site, environment: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(20, 60, (*HW, 3)).astype(np.uint8)
        pixels[_disc(number)] = (220, 60, 60)
        Image.fromarray(pixels).save(images / f"{number}.png")
    title = f"script {uuid.uuid4().hex[:8]}"
    stop = threading.Event()
    worker = Worker(environment, Store(environment.database()), site.studio)
    helpers = [
        threading.Thread(target=_people, args=(title, site.studio.url, stop), daemon=True),
        threading.Thread(target=worker.run, daemon=True),
    ]
    for helper in helpers:
        helper.start()
    try:
        options = {"learner": tiny_learner.NAME, "early_s": 0.0}
        done = label_and_export(
            title, ["disc"], images, tmp_path / "out.json", options=options, look_every_s=0.5
        )
    finally:
        stop.set()
        worker.stop()
        for helper in helpers:
            helper.join(timeout=60)
    assert done.annotations["human"] == 5
    document = json.loads((tmp_path / "out.json").read_text())
    assert {row["name"] for row in document["categories"]} == {"disc"}
    assert len(document["annotations"]) >= 5
    _look_after(title, site, tmp_path, capsys)
    for row in site.studio.projects():
        if title in row.title:
            site.studio.delete_project(row.id)
