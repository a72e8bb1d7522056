"""A project that adopted a ranking is served by it over HTTP; one whose files are broken by the segmenter."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml_backend.app import create_app
from ml_backend.artifacts.files import read_json, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import ProjectFacts, save_facts
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.project_network.click_net import (
    ClickNet,
    NetworkManifest,
    ProjectSegmenter,
    save_network,
)
from ml_backend.clicks.ranking.joint import JointSegmenter
from ml_backend.clicks.ranking.ranker import RANKING_FILE, Ranker, save_ranker
from ml_backend.clicks.ranking.versions import name_of
from ml_backend.clicks.serving.rankings import Rankings
from ml_backend.clicks.serving.service import ClickService
from ml_backend.clicks.start_masks import Proposals
from ml_backend.errors import ModelError
from ml_backend.images.store import ImageStore
from ml_backend.label_studio.codecs.brush import decode_brush
from ml_backend.services import Services
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.click_helpers import CONFIG, FixedPool, click, disc, facts, save_picture, task
from tests.ml_backend.clicks.ranking.ranking_helpers import HW, Small, proposals, weights

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Ask = Callable[..., Mask]
GOOD, OTHER = disc(HW, 40, 32, 12), disc(HW, 42, 32, 9)
PLAIN = disc(HW, 40, 32, 4) | GOOD
"""What the segmenter alone answers: it starts from the better proposal."""


class Two:
    """Two proposals on every task, of which the second is hardly worth starting from."""

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals:
        return proposals([GOOD, OTHER], [0.9, 0.4])


@pytest.fixture
def settings(tmp_path: Path) -> BackendSettings:
    return BackendSettings(
        data_dir=tmp_path / "data", allow_image_dirs=str(tmp_path), device="cpu", open_backend=True
    )


@pytest.fixture
def ask(settings: BackendSettings, tmp_path: Path) -> Ask:
    """Clicks over HTTP on a task with two proposals."""
    image = save_picture(tmp_path / "a.png", 90, hw=HW)
    save_facts(settings.data_dir, facts(1))
    service = ClickService(
        settings,
        ImageStore(settings),
        proposals=Two(),
        segmenters=FixedPool(settings, Small()),
    )
    shared = Services.from_settings(settings)
    shared._clicks = service
    client = create_app(services=shared).test_client()

    def post(*points: dict[str, Any]) -> Mask:
        body = {
            "tasks": [task(7, image)],
            "project": "1.1700000000",
            "label_config": CONFIG,
            "params": {"context": {"result": [*points]}},
        }
        reply = client.post("/predict", json=body)
        assert reply.status_code == 200, reply.get_data(as_text=True)
        (region,) = reply.get_json()["results"][0]["result"]
        return decode_brush(region["value"]["rle"], HW)

    return post


@pytest.fixture
def version(settings: BackendSettings) -> Path:
    """A click version whose ranking prefers small proposals, adopted by the project."""
    project = ProjectPaths(settings.data_dir, 1)
    folder = project.clicks / "click-r1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_network(folder, ClickNet(8), NetworkManifest(size=48, width=8, first_side=64.0))
    prefers = weights(from_proposal=9.0, score_of_proposal=-1.0)
    save_ranker(folder, Ranker(prefers, base="small:small-1", second=name_of(ProjectSegmenter(folder))))
    (project.clicks / "ranking").write_text(folder.name)
    return folder


def test_without_a_ranking_nothing_changes(ask: Ask) -> None:
    np.testing.assert_array_equal(ask(click(50, 50)), PLAIN)


def test_an_adopted_ranking_answers_the_first_click_and_the_segmenter_refines_it(
    ask: Ask, version: Path
) -> None:
    first = click(50, 50)
    np.testing.assert_array_equal(ask(first), OTHER)
    left = disc(HW, 36, 32, 4)  # a negative click there
    np.testing.assert_array_equal(ask(first, click(45, 50, False)), OTHER & ~left)
    np.testing.assert_array_equal(ask(first), OTHER)  # after an undo


def _gone(version: Path) -> None:
    (version / RANKING_FILE).unlink()


def _torn(version: Path) -> None:
    (version / RANKING_FILE).write_text('{"format": 1, "wei')


def _too_deep(version: Path) -> None:
    (version / RANKING_FILE).write_text("[" * 200_000)


def _not_a_number(version: Path) -> None:
    said = read_json(version / RANKING_FILE)
    write_json(version / RANKING_FILE, said | {"weights": [float("nan"), *said["weights"][1:]]})


def _no_network(version: Path) -> None:
    (version / "weights.safetensors").write_bytes(b"nothing")


def _old_network(version: Path) -> None:
    write_json(version / "click.json", {"format": -1})


def _other_segmenter(version: Path) -> None:
    save_ranker(version, Ranker(weights(from_proposal=9.0), base="sam:sam-1"))


def _bad_name(version: Path) -> None:
    (version.parent / "ranking").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (_gone, "ranking.json is not used"),
        (_torn, "holds no ranking of candidates"),
        (_too_deep, "holds no ranking of candidates"),
        (_not_a_number, "holds no ranking of candidates"),
        (_no_network, "no usable click network"),
        (_old_network, "no click network of this release"),
        (_other_segmenter, "was measured with sam:sam-1 and , but small:small-1 and project:"),
        (_bad_name, "cannot be read"),
    ],
)
def test_a_ranking_that_cannot_be_used_is_logged_once_and_the_segmenter_answers(
    ask: Ask,
    version: Path,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[Path], None],
    words: str,
) -> None:
    breaks(version)
    with caplog.at_level(logging.WARNING):
        for x in (50, 51):
            assert ask(click(x, 50)).sum() >= PLAIN.sum()
        np.testing.assert_array_equal(ask(click(50, 50)), PLAIN)
    assert [words in record.getMessage() for record in caplog.records] == [True]


def test_a_ranking_made_later_serves_without_a_restart(ask: Ask, version: Path) -> None:
    np.testing.assert_array_equal(ask(click(50, 50)), OTHER)
    second = name_of(ProjectSegmenter(version))
    save_ranker(version, Ranker(weights(from_start=9.0), base="small:small-1", second=second))
    np.testing.assert_array_equal(ask(click(50, 50)), PLAIN)
    (version.parent / "ranking").unlink()
    np.testing.assert_array_equal(ask(click(50, 50)), PLAIN)


def test_beside_the_network_the_configured_segmenter_is_asked(
    settings: BackendSettings, version: Path
) -> None:
    project = ProjectPaths(settings.data_dir, 1)
    network = ProjectSegmenter(version)
    save_ranker(version, Ranker(weights(), base=name_of(network), second="small:small-1"))
    configured = Small()
    pixels = np.zeros((*HW, 3), np.uint8)
    rankings = Rankings(settings)
    ranked = rankings.joint(project, network, lambda: configured, None, 7, lambda: pixels)
    assert isinstance(ranked, JointSegmenter)
    assert (ranked.base, ranked.second) == (network, configured)
    other = Small(encoder="small-2")
    assert rankings.joint(project, network, lambda: other, None, 7, lambda: pixels) is network
    save_ranker(version, Ranker(weights(), base=name_of(network)))  # nothing was asked beside it
    alone = rankings.joint(project, network, pytest.fail, None, 7, lambda: pixels)
    assert isinstance(alone, JointSegmenter)
    assert alone.second is None


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError()])
def test_a_network_that_does_not_fit_into_memory_stops_no_click(
    ask: Ask,
    version: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def load(_: ProjectSegmenter) -> None:
        raise error

    monkeypatch.setattr(ProjectSegmenter, "load", load)
    for _ in range(2):
        np.testing.assert_array_equal(ask(click(50, 50)), PLAIN)
    assert caplog.text.count("is not used") == 1


def test_the_network_answers_where_the_configured_segmenter_is_gone(
    settings: BackendSettings, version: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = ProjectPaths(settings.data_dir, 1)
    network = ProjectSegmenter(version)
    save_ranker(version, Ranker(weights(), base=name_of(network), second="click-onnx:click-onnx-1"))
    asked: list[int] = []

    def gone() -> ClickSegmenter:
        asked.append(1)
        raise ModelError("net.onnx is no file")

    rankings = Rankings(settings)
    pixels = np.zeros((*HW, 3), np.uint8)
    for _ in range(3):
        assert rankings.joint(project, network, gone, None, 7, lambda: pixels) is network
    assert len(asked) == 1  # building it can take seconds, of each click
    assert caplog.text.count("net.onnx is no file") == 1


def test_a_mask_is_not_remembered_for_other_proposals_or_another_task(
    settings: BackendSettings, version: Path
) -> None:
    """Two tasks may show the same picture; masks are kept under the picture and the segmenter's encoder."""
    project, rankings, base = ProjectPaths(settings.data_dir, 1), Rankings(settings), Small()
    pixels = np.zeros((*HW, 3), np.uint8)

    def encoder(found: Proposals | None, task_id: int) -> str:
        return rankings.joint(project, base, pytest.fail, found, task_id, lambda: pixels).encoder

    first, second = proposals([GOOD], version="v1"), proposals([OTHER], version="v2")
    kept = {encoder(None, 7), encoder(first, 7), encoder(second, 7), encoder(first, 8)}
    assert len(kept) == 4
    assert base.encoder not in kept
    assert encoder(first, 7) in kept
    save_ranker(version, Ranker(weights(), base="small:small-1", second=name_of(ProjectSegmenter(version))))
    assert encoder(first, 7) not in kept
