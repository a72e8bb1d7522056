"""A training that is killed goes on from its last checkpoint and ends with the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.ml_backend.learners.training.small_fit import batch, run

_ROOT = Path(__file__).parents[4]


def _start(folder: Path, mark: Path, pause_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ml_backend.learners.training.small_fit", folder, mark, str(pause_s)],
        cwd=_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _wait_until(is_so: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    calm, killed, mark = tmp_path / "calm", tmp_path / "killed", tmp_path / "mark"
    model, _ = run(calm, ema=0.9)
    child = _start(killed, mark, 0.05)

    def is_half_done() -> bool:
        text = mark.read_text() if mark.exists() else ""  # read once: the child writes it all the time
        return text.isdigit() and int(text) > 11

    _wait_until(is_half_done, child)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "result.safetensors").exists()
    again = _start(killed, mark, 0.0)
    assert again.wait(60) == 0
    assert int((killed / "resumed_from").read_text()) > 0
    found = load_file(killed / "result.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name


def test_every_state_of_the_loop_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at any step: history, best weights, waiting and skipped steps go on too."""
    monkeypatch.setattr("ml_backend.learners.training.loop._CHECKPOINT_SHARE", 1e9)

    def make(stop_at: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        def drawn(step: int) -> tuple[Tensor, Tensor]:
            if step == stop_at:
                raise KeyboardInterrupt
            return (batch(step)[0], batch(step)[1] * float("inf")) if step in (4, 13) else batch(step)

        return drawn

    def validate(model: torch.nn.Module) -> float:
        points, values = batch(999)
        return -float(((model(points) - values) ** 2).mean())

    options = {"ema": 0.9, "validate_every": 4, "patience": 20, "iterations": 30, "optimiser": "sgd"}
    calm, expected = run(next_batch=make(-1), validate=validate, **options)
    for stop_at in (3, 9, 14, 22):
        folder = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(folder, next_batch=make(stop_at), validate=validate, **options)
        model, result = run(folder, next_batch=make(-1), validate=validate, **options)
        assert result.resumed_from == stop_at
        assert (result.history, result.skipped) == (expected.history, expected.skipped)
        assert (result.best, result.best_step) == (expected.best, expected.best_step)
        assert all(torch.equal(model.state_dict()[k], v) for k, v in calm.state_dict().items())


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    """A kill while the result is measured, after the last step."""
    calm, _ = run(tmp_path)

    def never(step: int) -> tuple[Tensor, Tensor]:
        raise AssertionError("no step was left")

    model, result = run(tmp_path, next_batch=never)
    assert result.resumed_from == result.steps == 40
    assert all(torch.equal(model.state_dict()[k], v) for k, v in calm.state_dict().items())


@pytest.mark.parametrize("keep", [0, 10, 2000])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    calm, _ = run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    model, result = run(tmp_path)
    assert result.resumed_from == 0
    assert "damaged" in caplog.text
    assert all(torch.equal(model.state_dict()[k], v) for k, v in calm.state_dict().items())


def test_the_checkpoint_of_another_training_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path)
    _, result = run(tmp_path, lr=0.04)
    assert result.resumed_from == 0
    assert "another training" in caplog.text
