"""What ``auto`` stands for: which weights are found, in which order, and what is said about the others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.clicks.serving import auto_choice, probe, segmenter_list
from ml_backend.clicks.serving.auto_choice import AutoChoice, choose, fetchable, settings_for
from ml_backend.clicks.serving.catalog import build_segmenter, inspect_segmenter
from ml_backend.clicks.serving.probe import Probe, known_probe, try_click
from ml_backend.clicks.serving.segmenter_list import list_segmenters
from ml_backend.errors import ModelError
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.hf_folders import save

SAM = ("image_encoder.patch_embed.proj.weight", "prompt_encoder.x", "mask_decoder.x")
HQ = ("mask_decoder.hf_token", "mask_decoder.compress_vit_feat.0", *SAM)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("sam2", tmp_path_factory.mktemp("sam2"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_choice, "resolve_device", lambda name: "cuda")


def settings(tmp_path: Path, **changes: Any) -> BackendSettings:
    return BackendSettings(data_dir=tmp_path, device="cpu", **changes)


def checkpoint(path: Path, names: tuple[str, ...] = SAM, *, size: int = 0) -> Path:
    """A file with the tensor names of a checkpoint, made ``size`` bytes long by a hole after its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.zeros(1) for name in names}, path)
    if size:
        os.truncate(path, size)
    return path


def pair(folder: Path) -> Path:
    folder.mkdir()
    for name in ("encoder.onnx", "decoder.onnx"):
        (folder / name).write_bytes(b"x" * 5000)
    return folder


def network(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def names(choice: AutoChoice) -> list[str]:
    return [candidate.segmenter for candidate in choice.ranked]


def test_without_weights_the_network_of_the_package_answers(tmp_path: Path) -> None:
    choice = choose(settings(tmp_path))
    assert names(choice) == ["shipped", "classical"]
    assert choice.line == "shipped (auto: no other weights are here)"
    assert "facebook/sam2.1-hiera-tiny` (156 MB, Apache-2.0)" in choice.better[0]
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


def test_without_onnxruntime_classical_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ml_backend.clicks.serving.catalog.missing_packages",
        lambda wanted: [name for name in wanted if name == "onnxruntime"],
    )
    choice = choose(settings(tmp_path))
    assert names(choice) == ["classical"]
    assert "needs onnxruntime" in choice.line
    assert any("pip install onnxruntime" in line for line in choice.better)


def test_on_a_cpu_the_smaller_comes_first_and_click_networks_last(tmp_path: Path, sam2: Path) -> None:
    given = settings(
        tmp_path,
        hf_model=str(sam2),
        sam_onnx=pair(tmp_path / "pair"),
        click_onnx=network(tmp_path / "net.onnx"),
        sam_checkpoint=checkpoint(tmp_path / "sam.pth"),
    )
    choice = choose(given)
    assert names(choice) == ["sam-onnx", "sam-onnx", "hf", "click-onnx", "shipped", "classical"]
    assert choice.better == ()
    exported = choice.ranked[0].settings
    assert (exported.sam_onnx, exported.sam_checkpoint) == (None, given.sam_checkpoint)
    assert "GROUNDSWELL_SAM_CHECKPOINT" in choice.line


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_transformers_comes_first_and_the_larger_before_the_smaller(
    tmp_path: Path, sam2: Path
) -> None:
    given = settings(
        tmp_path,
        hf_model=str(sam2),
        sam_onnx=pair(tmp_path / "pair"),
        click_onnx=network(tmp_path / "net.onnx"),
        sam_checkpoint=checkpoint(tmp_path / "sam.pth"),
    )
    checkpoint(tmp_path / "checkpoints" / "a.pth")
    large = checkpoint(tmp_path / "checkpoints" / "b.pth", (*SAM, *(f"mask_decoder.{i}" for i in range(99))))
    choice = choose(given)
    assert names(choice) == ["hf", "sam", "sam-onnx", "click-onnx", "sam", "sam", "shipped", "classical"]
    assert choice.ranked[4].settings.sam_checkpoint == large


def test_what_was_pulled_is_found_and_what_is_named_goes_first(tmp_path: Path, sam2: Path) -> None:
    there = tmp_path / "checkpoints"
    shutil.copytree(sam2, there / "somebody--sam2")
    shutil.copytree(sam2, there / "somebody--other.part")  # a download that is not finished
    pulled = choose(settings(tmp_path))
    assert names(pulled) == ["hf", "shipped", "classical"]
    assert pulled.best.settings.hf_model == str(there / "somebody--sam2")
    assert build_segmenter("hf", pulled.best.settings).name == "hf"
    assert settings_for("hf", settings(tmp_path)) == pulled.best.settings
    assert settings_for("sam", settings(tmp_path)) == settings(tmp_path)
    twice = choose(settings(tmp_path, hf_model="somebody/sam2"))
    assert names(twice) == ["hf", "shipped", "classical"]  # the same files
    assert twice.best.named
    both = choose(settings(tmp_path, click_onnx=network(tmp_path / "net.onnx")))
    assert names(both) == ["click-onnx", "hf", "shipped", "classical"]


def test_on_a_cpu_weights_that_take_many_seconds_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_choice, "SLOW_BYTES", 4000)
    choice = choose(settings(tmp_path, sam_onnx=pair(tmp_path / "pair")))
    assert names(choice) == ["shipped", "classical"]
    assert choice.passed_over[0].endswith(
        "on a CPU. To use them all the same: GROUNDSWELL_SEGMENTER=sam-onnx"
    )
    monkeypatch.setattr(auto_choice, "SLOW_BYTES", 10)
    pulled = checkpoint(tmp_path / "checkpoints" / "large.pth")
    (line,) = choose(settings(tmp_path)).passed_over
    assert line.endswith(f"GROUNDSWELL_SEGMENTER=sam-onnx GROUNDSWELL_SAM_CHECKPOINT={pulled}")
    pulled.unlink()
    monkeypatch.setattr(auto_choice, "resolve_device", lambda name: "cuda")
    assert names(choose(settings(tmp_path, sam_onnx=tmp_path / "pair")))[0] == "sam-onnx"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sam_checkpoint": "hq.pth"}, "is an HQ-SAM checkpoint.*GROUNDSWELL_SEGMENTER=hf"),
        ({"sam_checkpoint": "rubbish.pth"}, "not a readable SAM checkpoint"),
        ({"sam_checkpoint": "gone.pth"}, "does not exist"),
        ({"hf_model": "somebody/never-pulled"}, "is not on this machine.*models pull somebody/never-pulled"),
        ({"hf_model": "detector"}, "detection model"),
        ({"hf_model": "deep"}, "holds no model of transformers"),
        ({"sam_onnx": "detector"}, "not an ONNX pair"),
    ],
)
def test_foreign_weights_are_named_and_passed_over(
    tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    checkpoint(tmp_path / "hq.pth", HQ)
    (tmp_path / "rubbish.pth").write_bytes(b"rubbish")
    for folder, config in (("detector", '{"model_type": "detr"}'), ("deep", "[" * 200_000)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(config)
    given = {name: value if "/" in value else tmp_path / value for name, value in changes.items()}
    if "hf_model" in given:
        given["hf_model"] = str(given["hf_model"])
    choice = choose(settings(tmp_path, **given))
    assert names(choice) == ["shipped", "classical"]
    assert choice.line == "shipped (auto: no other weights that can be used are here)"
    assert len(choice.passed_over) == 1
    import re

    assert re.search(words, choice.passed_over[0]), choice.passed_over
    assert choice.better[0] == choice.passed_over[0]


@pytest.mark.parametrize(
    "config", ["[1]", "5", "null", '"sam2"', '{"model_type": null}', "[" * 200_000, "\x00"]
)
def test_a_config_that_holds_something_else_is_passed_over(tmp_path: Path, config: str) -> None:
    """The start of the service looks at every folder: none may stop it."""
    folder = tmp_path / "checkpoints" / "somebody--model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    choice = choose(settings(tmp_path))
    assert names(choice) == ["shipped", "classical"]
    (said,) = choice.passed_over
    assert "holds no model of transformers that takes clicks" in said


@pytest.mark.parametrize("header", [b"[1, 2]", b"5", b'{"a": 1}', b"[" * 50_000, b"\xff"])
def test_weights_with_a_strange_header_are_passed_over(tmp_path: Path, header: bytes) -> None:
    folder = tmp_path / "checkpoints" / "somebody--model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert len(choose(settings(tmp_path)).passed_over) == 1


def test_what_is_offered_depends_on_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*names: str) -> None:
        monkeypatch.setattr(
            auto_choice, "missing_packages", lambda wanted: [name for name in wanted if name in names]
        )

    offered = fetchable()
    assert offered is not None
    assert offered.name == "facebook/sam2.1-hiera-tiny"
    without("transformers")
    offered = fetchable()
    assert offered is not None
    assert offered.name == "sam_vit_b"
    without("transformers", "onnx")
    assert fetchable() is None


# -- probes


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were probed; ``hf`` fails as long as a file says so."""
    calls: list[str] = []

    def fake(module: str, request: Any, *_: Any, **__: Any) -> dict[str, Any]:
        calls.append(request["name"])
        if request["name"] == "hf" and (Path(request["settings"]["data_dir"]) / "broken").exists():
            raise ModelError("the weights lack tensors", field="hf_model", hint="Fetch them again")
        return Probe(seconds=1.0).model_dump()

    monkeypatch.setattr(probe, "run_child", fake)
    return calls


def row(tmp_path: Path, name: str, **options: Any) -> segmenter_list.SegmenterStatus:
    probing = options.pop("probing", "never")
    rows = list_segmenters(settings(tmp_path, **options), probing=probing)
    return next(row for row in rows if row.name == name)


def test_ready_means_that_a_click_was_tried(
    tmp_path: Path, sam2: Path, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = row(tmp_path, "hf", hf_model=str(sam2))
    assert (before.ready, before.here) == (False, True)
    assert before.reason == "weights are there, not tried: groundswell models --probe"
    assert tried == []
    after = row(tmp_path, "hf", hf_model=str(sam2), probing="small")
    assert (after.ready, after.here, after.reason) == (True, True, "")
    assert sorted(tried) == ["hf", "shipped"]  # auto asked about the same files
    assert row(tmp_path, "hf", hf_model=str(sam2), probing="all").ready
    assert row(tmp_path, "hf", hf_model=str(sam2)).ready
    assert len(tried) == 2
    weights = sam2 / "model.safetensors"
    os.utime(weights, (1, 1))
    assert not row(tmp_path, "hf", hf_model=str(sam2)).ready
    monkeypatch.setattr(segmenter_list, "SMALL_BYTES", 100)
    assert not row(tmp_path, "hf", hf_model=str(sam2), probing="small").ready
    assert row(tmp_path, "hf", hf_model=str(sam2), probing="all").ready


def test_what_failed_a_probe_is_passed_over_until_it_is_tried_again(
    tmp_path: Path, sam2: Path, tried: list[str]
) -> None:
    (tmp_path / "broken").touch()
    failed = row(tmp_path, "hf", hf_model=str(sam2), probing="small")
    assert (failed.ready, failed.here) == (False, False)
    assert failed.reason == "the weights lack tensors. Fetch them again"
    choice = choose(settings(tmp_path, hf_model=str(sam2)))
    assert names(choice) == ["shipped", "classical"]
    assert "the weights lack tensors" in choice.passed_over[0]
    assert "now shipped" in row(tmp_path, "auto", hf_model=str(sam2), probing="small").reason
    assert tried.count("hf") == 1
    (tmp_path / "broken").unlink()
    assert "now hf" in row(tmp_path, "auto", hf_model=str(sam2), probing="all").reason
    assert names(choose(settings(tmp_path, hf_model=str(sam2))))[0] == "hf"


def test_what_failed_is_tried_again_with_another_release_of_the_library(
    tmp_path: Path, sam2: Path, tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").touch()
    given = settings(tmp_path, hf_model=str(sam2))
    row(tmp_path, "hf", hf_model=str(sam2), probing="small")
    assert names(choose(given))[0] == "shipped"
    monkeypatch.setattr(probe, "version", lambda package: "99.0")
    assert names(choose(given))[0] == "hf"
    (tmp_path / "broken").unlink()
    assert row(tmp_path, "hf", hf_model=str(sam2), probing="small").ready
    assert tried.count("hf") == 2


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"a": 1}', b"[" * 200_000, b"\xff"])
def test_a_damaged_list_of_probes_is_made_again(tmp_path: Path, tried: list[str], content: bytes) -> None:
    (tmp_path / "probes.json").write_bytes(content)
    assert not row(tmp_path, "shipped").ready
    assert row(tmp_path, "shipped", probing="small").ready
    assert row(tmp_path, "shipped").ready


def test_a_missing_device_and_a_time_out_are_not_remembered(
    tmp_path: Path, sam2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path, hf_model=str(sam2))
    report = inspect_segmenter("hf", given)
    for field in ("device", ""):

        def fail(*_: Any, field: str = field, **__: Any) -> None:
            raise ModelError("no", field=field)

        monkeypatch.setattr(probe, "run_child", fail)
        assert probe.probe("hf", given, report, timeout_s=1).problem == "no"
        assert known_probe("hf", given, report) is None


def test_a_probe_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    given = settings(tmp_path)
    report = inspect_segmenter("shipped", given)
    found = probe.probe("shipped", given, report, timeout_s=0.01)  # Python alone takes longer to start
    assert found.problem.startswith("the probe process took longer than")
    assert known_probe("shipped", given, report) is None
    assert probe.probe("shipped", given, report, timeout_s=120).problem == ""


def test_a_real_probe_loads_weights_and_clicks(tmp_path: Path) -> None:
    given = settings(tmp_path)
    report = inspect_segmenter("shipped", given)
    found = probe.probe("shipped", given, report, timeout_s=120)
    assert found.problem == ""
    assert found.seconds > 0
    assert known_probe("shipped", given, report) == found
    broken = settings(tmp_path, click_onnx=network(tmp_path / "net.onnx"))
    said = probe.probe("click-onnx", broken, inspect_segmenter("click-onnx", broken), timeout_s=120)
    assert "cannot load" in said.problem


def test_a_click_needs_a_mask(tmp_path: Path) -> None:
    import numpy as np

    good = build_segmenter("classical", settings(tmp_path))
    try_click(good)

    class Empty:
        def __init__(self, shape: tuple[int, ...]) -> None:
            self.shape = shape

        def embed(self, image: Any) -> Any:
            return good.embed(image)

        def segment(self, *_: Any) -> Any:
            from ml_backend.clicks.base import ClickResult

            return ClickResult(np.zeros((1, *self.shape), np.bool_), np.ones(1, np.float32), None)

    with pytest.raises(ModelError, match="empty mask"):
        try_click(Empty((96, 96)))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no click model"):
        try_click(Empty((9, 9)))  # type: ignore[arg-type]
