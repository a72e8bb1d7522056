"""Embeddings for clicks: the same whoever makes them, here, in processes or where only the weights are."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_backend.artifacts.project_facts import load_facts
from ml_backend.clicks.serving import encoder_source
from ml_backend.clicks.serving.embeddings import read_embedding
from ml_backend.clicks.serving.encoder_source import EncoderSource, build_encoder
from ml_backend.clicks.serving.prewarm import EmbedReport
from ml_backend.clicks.serving.service import ClickService
from ml_backend.errors import ExecutorError, LeaseLost, ModelError
from sync.executor.base import Executor, Job, Node
from sync.executor.folders import FolderCache, digest_of, pack
from sync.executor.local import LocalExecutor
from sync.executor.processes import ProcessExecutor
from sync.rounds.backend_facts import write_facts
from sync.rounds.click_embedding import embed_next
from sync.rounds.project import OpenProject
from sync.rounds.pull import pull
from sync.rounds.task_queries import task_images
from tests.ml_backend.clicks.sam_models import small_sam
from tests.sync.conftest import World
from tests.sync.steps import step

MakeWorld = Callable[..., World]
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:Exporting aten..index operator:UserWarning",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    from ml_backend.clicks.segmenters.sam_onnx import export_sam_onnx

    return export_sam_onnx(small_sam(), tmp_path_factory.mktemp("onnx") / "pair")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _opened(make_world: MakeWorld, pair: Path, name: str) -> tuple[World, OpenProject]:
    world = make_world(7, name=name, segmenter="sam-onnx", sam_onnx=pair, device="cpu")
    project = world.open()
    step(pull, project)
    step(write_facts, project)
    return world, project


def _embed(project: OpenProject, executor: Executor, count: int = 7) -> EmbedReport:
    service = ClickService(project.settings, project.images)
    facts = load_facts(project.settings.data_dir, project.id)
    tasks = sorted(task_images(project.db).items())[:count]
    return embed_next(project.settings, project.images, project.progress, executor, service, facts, tasks)


def _kept(project: OpenProject) -> dict[str, tuple[tuple[int, int], bytes]]:
    """Size of the picture and features, by its digest. (Headers of equal files differ in their order.)"""
    folder = project.settings.data_dir / "embeddings"
    found = {}
    for path in folder.rglob("*.safetensors"):
        embedding = read_embedding(path, path.parent.name)
        assert embedding.arrays["features"].dtype == np.float32
        found[path.stem] = (embedding.hw, embedding.arrays["features"].tobytes())
    return found


class _Elsewhere(LocalExecutor):
    """A machine that has the bytes of folders only."""

    ships = elsewhere = True  # type: ignore[assignment]

    def __init__(self, root: Path, fails: Exception | None = None) -> None:
        self.root = root
        self.fails = fails

    def device(self, wanted: str) -> str:
        return "cpu"

    def map(self, job: Job[Any, Any, Any], inputs: Any, **_: Any) -> Generator[Any]:
        there = {}
        for name, path in job.folders.items():
            packed = pack(path)
            there[name] = FolderCache(self.root, 10**9).get(digest_of(packed), lambda packed=packed: packed)
        node = Node(there, {})
        for number, item in enumerate(inputs):
            if self.fails is not None and number == 2:
                raise self.fails
            yield job.function(job.shared, item, node)


def test_embeddings_of_processes_and_other_machines_are_those_of_the_worker(
    make_world: MakeWorld, pair: Path, tmp_path: Path
) -> None:
    (_, here), (_, beside), (_, there) = (
        _opened(make_world, pair, name) for name in ("here", "beside", "there")
    )
    report = _embed(here, LocalExecutor())
    assert (report.encoded, report.present, report.failed) == (7, 0, 0)
    mine = _kept(here)
    assert len(mine) == 7
    executor = ProcessExecutor(2)
    report = _embed(beside, executor)
    assert len(executor._idle) == 2, "two processes had something to do"
    assert (report.encoded, report.present, report.failed) == (7, 0, 0)
    assert _kept(beside) == mine
    report = _embed(beside, executor)
    executor.close()
    assert (report.encoded, report.present, report.failed) == (0, 7, 0)
    (tmp_path / "cache").mkdir()
    report = _embed(there, _Elsewhere(tmp_path / "cache"))
    assert report.encoded == 7
    assert _kept(there) == mine


def test_a_few_pictures_wait_for_no_process(make_world: MakeWorld, pair: Path) -> None:
    _, project = _opened(make_world, pair, "few")
    executor = ProcessExecutor(2)
    assert _embed(project, executor, 3).encoded == 3
    assert executor._idle == []
    assert len(_kept(project)) == 3


def test_what_fails_stops_no_round(make_world: MakeWorld, pair: Path, tmp_path: Path) -> None:
    world, project = _opened(make_world, pair, "fails")
    (world.images / "001.png").write_bytes((world.images / "000.png").read_bytes()[:200])
    report = _embed(project, _Elsewhere(tmp_path))
    assert (report.encoded, report.failed) == (6, 1)
    _, project = _opened(make_world, pair, "away")
    report = _embed(project, _Elsewhere(tmp_path, ExecutorError("the cluster is away")))
    assert (report.encoded, report.failed) == (2, 5)
    _, project = _opened(make_world, pair, "lost")
    with pytest.raises(LeaseLost):
        _embed(project, _Elsewhere(tmp_path, LeaseLost("another worker took over")))


def test_other_weights_are_refused(pair: Path) -> None:
    with pytest.raises(ModelError, match="in the place of sam-onnx-of-the-worker"):
        build_encoder(EncoderSource("sam-onnx", "sam-onnx-of-the-worker", "float32"), pair, device="cpu")


def test_a_single_file_travels_as_a_folder_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sam.pth").write_bytes(b"weights")
    (tmp_path / "other.pth").write_bytes(b"not asked for")
    packed = pack(tmp_path / "sam.pth")
    folder = FolderCache(tmp_path, 10**6).get(digest_of(packed), lambda: packed)
    assert [path.name for path in folder.iterdir()] == ["sam.pth"]
    read: list[bytes] = []

    class Built:
        encoder = "sam-1"

    def build(name: str, settings: Any) -> Built:
        read.append(settings.sam_checkpoint.read_bytes())
        return Built()

    monkeypatch.setattr(encoder_source, "build_segmenter", build)
    for weights in (folder, tmp_path / "sam.pth"):
        build_encoder(EncoderSource("sam", "sam-1", "float32"), weights, device="cpu")
    assert read == [b"weights"] * 2
