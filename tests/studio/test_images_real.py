"""Label configs whose pictures do not stand under one field of their own: a real Label Studio and editor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ml_backend.artifacts.project_facts import ProjectFacts, save_facts
from ml_backend.errors import BadLabelConfig
from ml_backend.label_studio.codecs.brush import decode_brush
from ml_backend.label_studio.config_builder import build_label_config
from ml_backend.label_studio.label_config import parse_label_config
from sync.studio.protocol import ProjectRow
from tests.browser.place import open_stream, sign_in
from tests.conftest import LOGIN
from tests.studio.conftest import Site

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.studio

LABELS = ("cell",)
PAIR = """<View>
<KeyPointLabels name="click1" toName="before" smart="true"><Label value="cell"/></KeyPointLabels>
<KeyPointLabels name="click2" toName="after" smart="true"><Label value="cell"/></KeyPointLabels>
<BrushLabels name="brush1" toName="before" smart="false"><Label value="cell"/></BrushLabels>
<BrushLabels name="brush2" toName="after" smart="false"><Label value="cell"/></BrushLabels>
<Image name="before" value="$pair.first"/><Image name="after" value="$more[0]"/></View>"""


def square(folder: Path, name: str, box: tuple[int, int, int, int], hw: tuple[int, int]) -> Path:
    canvas = np.full((*hw, 3), 30, np.uint8)
    canvas[box[1] : box[3], box[0] : box[2]] = (220, 60, 40)
    Image.fromarray(canvas).save(folder / name)
    return folder / name


def uploaded(site: Site, project_factory: Callable[..., ProjectRow], paths: list[Path]) -> list[str]:
    """Addresses of pictures that Label Studio serves."""
    plain = project_factory("pictures", build_label_config(LABELS))
    ids = site.studio.upload_images(plain.id, paths)
    return [str(site.studio.task(task).data["image"]) for task in ids]


def clicked(site: Site, backend: int, task: int, control: str, image: str) -> dict[str, Any]:
    """Label Studio's answer to one click in the middle of an image."""
    click = {
        "type": "keypointlabels",
        "from_name": control,
        "to_name": image,
        "is_positive": True,
        "value": {"x": 50.0, "y": 50.0, "width": 0.3, "keypointlabels": ["cell"]},
    }
    answer = httpx.post(
        f"{site.studio.url}/api/ml/{backend}/interactive-annotating",
        json={"task": task, "context": {"result": [click]}},
        headers={"Authorization": f"Token {LOGIN.token}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_each_of_two_images_gets_its_own_mask_and_errors_keep_their_hint(
    site: Site, project_factory: Callable[..., ProjectRow], tmp_path: Path
) -> None:
    boxes = {"before": (20, 15, 60, 45), "after": (30, 10, 90, 40)}
    sizes = {"before": (60, 80), "after": (50, 120)}
    paths = [square(tmp_path, f"{name}.png", boxes[name], sizes[name]) for name in boxes]
    first, second = uploaded(site, project_factory, paths)
    project = project_factory("two images", PAIR)
    save_facts(
        site.settings.data_dir,
        ProjectFacts(
            project.id, project.key, project.title, "instances", PAIR, LABELS, segmenter="classical"
        ),
    )
    gone = "https://pictures.invalid/" + "a-long-way-down/" * 12 + "picture.png"
    (task, broken) = site.studio.import_tasks(
        project.id,
        [{"pair": {"first": first}, "more": [second]}, {"pair": {"first": gone}, "more": [second]}],
    )
    backend = site.studio.connect_backend(
        project.id, site.settings.backend_url, title="Groundswell", basic_auth=site.basic_auth
    )
    for control, brush, image in (("click1", "brush1", "before"), ("click2", "brush2", "after")):
        answer = clicked(site, backend, task, control, image)
        (region,) = answer["data"]["result"]
        assert (region["from_name"], region["to_name"]) == (brush, image)
        truth = np.zeros(sizes[image], bool)
        x0, y0, x1, y1 = boxes[image]
        truth[y0:y1, x0:x1] = True
        mask = decode_brush(region["value"]["rle"], sizes[image])
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    (said,) = clicked(site, backend, broken, "click1", "before")["errors"]
    assert "pictures.invalid" in said
    assert "a-long-way-down/a-long-way-down/" not in said
    assert "..." in said


@pytest.mark.browser
def test_addresses_are_those_that_the_editor_shows(
    site: Site, project_factory: Callable[..., ProjectRow], page: Page, tmp_path: Path
) -> None:
    (address,) = uploaded(site, project_factory, [square(tmp_path, "a.png", (20, 15, 60, 45), (60, 80))])
    folder, _, name = address.rpartition("/")
    stem, _, ending = name.rpartition(".")
    values = {
        "nested": "$page.url",
        "listed": "$pictures[0]",
        "deep": "$page.sizes[1].full",
        "joined": f"{folder}/$name",
        "ended": f"{folder}/$stem.{ending}",  # reads as the field "png" of "stem"
        "one": "$alone",
    }
    tags = "".join(f'<Image name="{name}" value="{value}"/>' for name, value in values.items())
    xml = f'<View><BrushLabels name="b" toName="nested"><Label value="cell"/></BrushLabels>{tags}</View>'
    project = project_factory("image values", xml)
    data = {
        "page": {"url": address, "sizes": [{"full": "no"}, {"full": address}]},
        "pictures": [address, "no"],
        "alone": [address],
        "name": name,
        "stem": stem,
    }
    (task,) = site.studio.import_tasks(project.id, [data])
    sign_in(page, site.studio.url)
    open_stream(page, site.studio.url, project.id)
    config = parse_label_config(site.studio.project(project.id).label_config)
    stored = site.studio.task(task).data
    for image in values:
        shown = page.evaluate(f"Htx.annotationStore.selected.names.get('{image}').parsedValue")
        if image == "ended":  # the editor shows no picture, so ours is a clear error
            assert "undefined" in shown
            with pytest.raises(BadLabelConfig, match=r"no text under 'stem\.png'"):
                config.image_of(stored, image)
            continue
        shown = shown[0] if isinstance(shown, list) else shown
        assert shown == config.image_of(stored, image) == address, image
