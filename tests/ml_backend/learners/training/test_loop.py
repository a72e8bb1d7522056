"""The shared loop: early stop, moving average, clipping, numbers that are none, learning rates, events."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ml_backend.errors import ModelError
from ml_backend.learners.training.average import MovingAverage
from ml_backend.learners.training.events import EVENTS
from ml_backend.learners.training.loop import fit
from ml_backend.learners.training.schedule import rate
from ml_backend.learners.training.settings import LoopSettings
from tests.ml_backend.learners.training.small_fit import BASE, CPU, batch, loss_of, network, run


@pytest.mark.parametrize("optimiser", ["adamw", "adam", "sgd"])
def test_learns_and_says_how_far_it_is(optimiser: str) -> None:
    lines: list[str] = []
    model, result = run(optimiser=optimiser, iterations=200, lr=0.02, lines=lines)
    assert result.steps == 200
    assert len(result.history) == 20
    assert result.history[-1][1] < 0.5 * result.history[0][1]
    assert not model.training
    assert lines[0].startswith("iteration 10/200, loss ")
    assert lines[0].endswith(" s left")
    assert lines[-1].startswith("iteration 200/200, ")


def test_early_stop_keeps_the_best_weights() -> None:
    values = iter([0.1, 0.5, 0.3, math.nan, 0.2, 0.9])
    seen: list[Tensor] = []

    def validate(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append(model[0].weight.clone())  # type: ignore[index, union-attr]
        return next(values)

    model, result = run(validate=validate, validate_every=5, patience=3)
    assert (result.best, result.best_step, result.steps) == (0.5, 10, 25)
    torch.testing.assert_close(model.state_dict()["0.weight"], seen[1])
    assert not torch.equal(seen[1], seen[-1])


def test_the_last_step_is_validated_too() -> None:
    _, result = run(validate=lambda model: 1.0, validate_every=30)
    assert (result.best, result.best_step) == (1.0, 30)
    assert result.steps == 40


def test_moving_average_is_what_is_kept() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = MovingAverage(model, 0.9)
    expected = 0.0
    for step in range(200):
        nn.init.constant_(model.weight, float(step % 2))
        average.update(model)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * (step % 2)
    assert average.state["weight"].item() == pytest.approx(expected)
    assert run(ema=0.9)[0].state_dict()["1.num_batches_tracked"] == 40  # counters are not averaged
    plain, averaged = run()[0].state_dict(), run(ema=0.9)[0].state_dict()
    assert not torch.equal(plain["0.weight"], averaged["0.weight"])


def test_gradients_are_clipped_to_their_norm() -> None:
    """One step of plain gradient descent moves the weights by lr · clip."""
    changes = {"optimiser": "sgd", "momentum": 0.0, "iterations": 1, "lr": 1.0}
    before = network().state_dict()
    for clip in (0.01, 0.0):
        after = run(clip=clip, **changes)[0].state_dict()
        moved = [(after[k] - v).flatten() for k, v in before.items() if k[0] in "04" or k[:3] == "1.w"]
        moved.append(after["1.bias"] - before["1.bias"])
        distance = float(torch.cat(moved).norm())
        assert distance == pytest.approx(0.01, rel=1e-3) if clip else distance > 0.1


def test_a_few_bad_numbers_are_skipped_and_many_are_an_error() -> None:
    def sometimes(step: int) -> tuple[Tensor, Tensor]:
        points, values = batch(step)
        return points, values * math.inf if step % 7 == 3 else values

    model, result = run(next_batch=sometimes)
    assert result.skipped == 6
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    with pytest.raises(ModelError, match=r"iteration 5.*Lower the option lr"):
        run(next_batch=lambda step: (batch(step)[0], batch(step)[1] * math.nan))


def test_a_slow_part_and_biases_without_decay() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(3, 3), "head": nn.Linear(3, 1)})
    start = {name: value.clone() for name, value in model.state_dict().items()}
    settings = LoopSettings(
        **{**BASE, "iterations": 1, "lr": 1e-3}, weight_decay=0.1, slow=("backbone.",), slow_factor=0.0
    )

    def loss(model: nn.Module, samples: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        found = model["head"](model["backbone"](samples[0]))  # type: ignore[index]
        return {"squares": ((found - samples[1]) ** 2).mean()}

    fit(model, batch, loss, settings, device=CPU, seed=0, progress=lambda share, line: None)
    moved = {name: not torch.equal(value, start[name]) for name, value in model.state_dict().items()}
    assert moved == {"backbone.weight": False, "backbone.bias": False, "head.weight": True, "head.bias": True}


def test_learning_rate_warms_up_and_falls_by_steps_or_by_the_clock() -> None:
    settings = LoopSettings(iterations=100, lr=1.0)
    rates = [rate(settings, step, 0.0) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    timed = LoopSettings(iterations=1000, lr=1.0, seconds=10.0)
    assert rate(timed, 50, 0.5) == pytest.approx(0.51)
    assert rate(timed, 50, 5.5) == pytest.approx(0.5, abs=0.01)
    assert rate(timed, 50, 10.0) == pytest.approx(0.0, abs=1e-6)
    constant = LoopSettings(iterations=100, lr=1.0, schedule="constant", warmup=0.3)
    assert [rate(constant, step, 0.0) for step in (0, 14, 30, 99)] == pytest.approx([1 / 30, 0.5, 1, 1])


def test_a_time_limit_ends_the_run() -> None:
    _, result = run(iterations=10**6, seconds=0.3)
    assert 0 < result.steps < 10**6
    assert len(result.history) <= 20


def test_events_can_be_read_back(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, validate=lambda model: 0.25, validate_every=20)
    read = events.EventAccumulator(str(tmp_path / EVENTS))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "loss/squares", "lr", "validation"}
    assert [event.step for event in read.Scalars("loss")] == list(range(2, 41, 2))
    assert [event.value for event in read.Scalars("validation")] == [0.25, 0.25]


def test_nothing_is_written_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_losses_are_summed() -> None:
    def two(model: nn.Module, samples: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        one = loss_of(model, samples)["squares"]
        return {"a": 0.25 * one, "b": 0.75 * one}

    results = [
        fit(
            network(),
            batch,
            loss,
            LoopSettings(**BASE),
            device=CPU,
            seed=3,
            progress=lambda share, line: None,
        )
        for loss in (two, loss_of)
    ]
    assert results[0].history == results[1].history
