"""What `up`, `serve` and `worker` say about the machine, and what they advise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ml_backend.clicks.segmenters.sam_checkpoints import CHECKPOINTS
from sync.report.running_on import Machine, look_at_machine, running_on
from sync.settings import Settings

SAM = ("image_encoder.patch_embed.proj.weight", "prompt_encoder.x", "mask_decoder.x")
CPU = Machine(cores=4, gpu="", idle_gpu=False, weights=("A trained on B",))
GPU = Machine(cores=4, gpu="H100", idle_gpu=False, weights=("A trained on B",))


@pytest.mark.parametrize(
    ("machine", "options", "says", "says_not"),
    [
        (CPU, {}, ["computes on the CPU (4 cores)", "A trained on B", "clicks by shipped (auto: "], ["GPU"]),
        (CPU, {}, ["groundswell models pull facebook/sam2.1-hiera-tiny"], []),
        (GPU, {}, ["computes on the GPU H100", "GROUNDSWELL_PRESET=full"], []),
        (GPU, {"preset": "full"}, ["preset full"], ["GROUNDSWELL_PRESET"]),
        (GPU, {"device": "cpu"}, ["computes on the CPU", "GROUNDSWELL_DEVICE=auto"], []),
        (Machine(2, "", True, ()), {}, ["install a CUDA build", "no published weights are here"], []),
        (
            Machine(2, "", False, ()),
            {"learner_options": {"weights": "none"}},
            [],
            ["no published weights are"],
        ),
        (
            CPU,
            {"segmenter": "sam-onnx"},
            ["not ready: ", "GROUNDSWELL_SEGMENTER=auto"],
            ["models pull"],
        ),
        (CPU, {"segmenter": "classical"}, ["clicks by classical", "GROUNDSWELL_SEGMENTER=auto"], []),
        (CPU, {"segmenter": "shipped"}, ["clicks by shipped"], ["GROUNDSWELL_SEGMENTER"]),
        (CPU, {"segmenter": "project"}, ["clicks by project"], ["not ready", "models pull"]),
    ],
)
def test_the_machine_and_what_would_be_better(
    machine: Machine, options: dict[str, Any], says: list[str], says_not: list[str], tmp_path: Path
) -> None:
    text = "\n".join(running_on(Settings(data_dir=tmp_path, **options), machine))
    for words in says:
        assert words in text
    for words in says_not:
        assert words not in text


def test_weights_that_are_there_are_named(tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / CHECKPOINTS["sam_vit_b"].file
    file.parent.mkdir()
    torch.save({name: torch.zeros(1) for name in SAM}, file)
    text = "\n".join(running_on(Settings(data_dir=tmp_path), CPU))
    assert f"(auto: {file})" in text
    assert "fewer clicks" not in text
    file.write_bytes(b"weights")
    text = "\n".join(running_on(Settings(data_dir=tmp_path), CPU))
    assert "clicks by shipped (auto: no other weights that can be used are here)" in text
    assert f"better: {file} is not used: {file} is not a readable SAM checkpoint" in text


def test_this_machine_can_be_asked() -> None:
    assert look_at_machine().cores >= 1
