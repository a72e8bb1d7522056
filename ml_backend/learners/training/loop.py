"""The optimisation loop that all learners share."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ml_backend.errors import ModelError
from ml_backend.learners.base import Progress
from ml_backend.learners.training.average import MovingAverage
from ml_backend.learners.training.batches import to_device
from ml_backend.learners.training.checkpoint import (
    Checkpoint,
    fingerprint,
    load_checkpoint,
    restore_optimiser,
    save_checkpoint,
)
from ml_backend.learners.training.events import Events
from ml_backend.learners.training.schedule import rate, share_done
from ml_backend.learners.training.settings import LoopSettings

__all__ = ["FitResult", "fit", "native_bf16"]

log = logging.getLogger(__name__)

_POINTS = 20
_MOST_SKIPPED = 5
_CHECKPOINT_SHARE = 0.05

B = TypeVar("B")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a training did.

    ``history``: about twenty pairs (step, mean loss); ``steps`` done in all, ``resumed_from`` of them by an
    earlier process; ``seconds`` of all processes; ``best``: the best validated value (None without
    validation) and ``best_step`` when it was reached; ``skipped``: steps whose loss or gradient was no finite
    number; ``cut_short``: whether ``settings.seconds`` ended it.
    """

    history: tuple[tuple[int, float], ...]
    steps: int
    seconds: float
    resumed_from: int = 0
    best: float | None = None
    best_step: int = 0
    skipped: int = 0
    cut_short: bool = False


def fit(
    model: M,
    next_batch: Callable[[int], B],
    loss_of: Callable[[M, B], Mapping[str, Tensor]],
    settings: LoopSettings,
    *,
    device: torch.device,
    seed: int,
    progress: Progress,
    folder: Path | None = None,
    validate: Callable[[M], float] | None = None,
) -> FitResult:
    """Train ``model`` in place and leave it on ``device``, in evaluation mode.

    ``next_batch(step)`` gives the batch of a step (its tensors, in lists, tuples and dicts, are moved to the
    device), ``loss_of(model, batch)`` the losses, which are added up. Both must depend on the step and on
    torch's random numbers alone, which are seeded by (seed, step): then a resumed run goes on exactly as it
    would have. A run with a time limit depends on the clock too.

    ``validate(model)``, higher is better, is called in evaluation mode without gradients every
    ``settings.validate_every`` steps and at the end; the model then gets the weights of the best value.

    ``folder`` survives a kill: checkpoints are written there, a later call goes on from the last one, and
    TensorBoard's events go to ``folder/events``.

    A step whose loss or gradient is not finite is skipped; after five in a row ModelError is raised.
    """
    return _Run(model, next_batch, loss_of, settings, device, seed, progress, folder, validate).go()


def native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the hardware rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check and check())


class _Run:
    """One call of ``fit``."""

    def __init__(
        self,
        model: Any,
        next_batch: Callable[[int], Any],
        loss_of: Callable[[Any, Any], Mapping[str, Tensor]],
        settings: LoopSettings,
        device: torch.device,
        seed: int,
        progress: Progress,
        folder: Path | None,
        validate: Callable[[Any], float] | None,
    ) -> None:
        self.model = model.to(device)
        self.next_batch, self.loss_of, self.validate = next_batch, loss_of, validate
        self.settings, self.device, self.seed = settings, device, seed
        self.progress, self.folder = progress, folder
        self.optimiser = _optimiser(model, settings)
        self.average = MovingAverage(self.model, settings.ema) if settings.ema else None
        self.half = settings.amp == "on" or (settings.amp == "auto" and native_bf16(device))
        self.step = self.resumed_from = 0
        self.before_s = 0.0
        self.started = self.saved_at = time.monotonic()
        self.history: list[tuple[int, float]] = []
        self.recent = _Means()
        self.best: float | None = None
        self.best_step = self.waited = 0
        self.best_state: dict[str, Tensor] | None = None
        self.skipped = self.skipped_in_a_row = 0
        self.owner = fingerprint(self.model, settings, seed) if folder is not None else ""

    def go(self) -> FitResult:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._resume(self.folder)
        events = Events(self.folder, self.step)
        try:
            self._train(events)
        finally:
            events.close()
        if self.folder is not None and self.step > self.resumed_from:
            self._save(self.folder)  # a kill while the result is measured costs no training
        self._take_best()
        self.model.eval()
        return FitResult(
            tuple(self.history),
            self.step,
            self._seconds(),
            self.resumed_from,
            self.best,
            self.best_step,
            self.skipped,
            self.step < self.settings.iterations and not self._has_stopped(),
        )

    def _train(self, events: Events) -> None:
        settings = self.settings
        self.started = self.saved_at = time.monotonic()
        save_s, first = 0.0, self.step
        self.model.train()
        while not self._is_over():
            before = share_done(settings, self.step, self._seconds())
            _seed_step(self.seed, self.step, self.device)
            self.recent.add(self._one_step())
            self.step += 1
            done = share_done(settings, self.step, self._seconds())
            if int(done * _POINTS) > int(before * _POINTS):
                means = self.recent.take()
                if means:  # not where every step was skipped
                    self.history.append((self.step, round(means["loss"], 4)))
                    events.write(self.step, {**means, "lr": self.optimiser.param_groups[0]["lr"]})
                pace = (self.step - first) / (time.monotonic() - self.started)
                self.progress(done, self._line(means.get("loss", math.nan), pace, done))
            if self._validation_due(done):
                value = self._validate()
                events.write(self.step, {"validation": value})
            if self.folder is not None and done < 1 and self._save_due(save_s):
                save_s = self._save(self.folder)

    def _one_step(self) -> dict[str, Tensor]:
        """Losses of one step, detached; the weights are changed unless something is not finite."""
        settings = self.settings
        factor = rate(settings, self.step, self._seconds())
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * group["scale"] * factor
        batch = to_device(self.next_batch(self.step), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            losses = {name: value.float() for name, value in self.loss_of(self.model, batch).items()}
            loss = torch.stack(list(losses.values())).sum()
        self.optimiser.zero_grad(set_to_none=True)
        is_finite = bool(torch.isfinite(loss))
        if is_finite:
            loss.backward()  # type: ignore[no-untyped-call]
            with_gradient = [p for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in with_gradient])
            is_finite = bool(torch.isfinite(norm))
            if settings.clip and is_finite:
                nn.utils.clip_grads_with_norm_(with_gradient, settings.clip, norm)
        if not is_finite:
            self._skip(float(loss.detach()))
            return {}
        self.skipped_in_a_row = 0
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.model)
        return {"loss": loss.detach(), **{f"loss/{name}": value.detach() for name, value in losses.items()}}

    def _skip(self, loss: float) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        log.warning("step %d is skipped: its loss is %s or its gradient is not finite", self.step + 1, loss)
        if self.skipped_in_a_row >= _MOST_SKIPPED:
            raise ModelError(
                f"the loss became {loss} at iteration {self.step + 1}, or its gradient is not a number, "
                f"{_MOST_SKIPPED} times in a row",
                hint="Lower the option lr, or train without bfloat16",
            )

    def _is_over(self) -> bool:
        return self._has_stopped() or share_done(self.settings, self.step, self._seconds()) >= 1

    def _has_stopped(self) -> bool:
        """Whether validation has not become better for too long."""
        return self.settings.patience > 0 and self.waited >= self.settings.patience

    def _seconds(self) -> float:
        return self.before_s + time.monotonic() - self.started

    def _line(self, loss: float, pace: float, done: float) -> str:
        left = (1 - done) * self._seconds() / done
        total = self.settings.iterations
        text = f"iteration {self.step}/{total}, loss {loss:.3f}, {pace:.1f} it/s"
        return f"{text}, {left:.0f} s left" if done < 1 else text

    # validation

    def _validation_due(self, done: float) -> bool:
        every = self.settings.validate_every
        return self.validate is not None and every > 0 and (self.step % every == 0 or done >= 1)

    def _validate(self) -> float:
        """Validate the weights that would be kept, and note them when they are the best so far."""
        assert self.validate is not None
        own = _copy(self.model.state_dict()) if self.average is not None else None
        if self.average is not None:
            self.model.load_state_dict(self.average.state)
        self.model.eval()
        with torch.no_grad():
            value = float(self.validate(self.model))
        if math.isfinite(value) and (self.best is None or value > self.best):
            self.best, self.best_step, self.waited = value, self.step, 0
            self.best_state = _copy(self.model.state_dict())
        else:
            self.waited += 1
        if own is not None:
            self.model.load_state_dict(own)
        self.model.train()
        return value

    def _take_best(self) -> None:
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)
        elif self.average is not None:
            self.model.load_state_dict(self.average.state)

    # checkpoints

    def _save_due(self, save_s: float) -> bool:
        """Checkpoints take at most a twentieth of the time."""
        wait = max(self.settings.checkpoint_s, save_s / _CHECKPOINT_SHARE)
        return time.monotonic() - self.saved_at >= wait

    def _save(self, folder: Path) -> float:
        began = time.monotonic()
        tensors = {"model": self.model.state_dict()}
        if self.average is not None:
            tensors["average"] = self.average.state
        if self.best_state is not None:
            tensors["best"] = self.best_state
        facts = {
            "seconds": self._seconds(),
            "history": self.history,
            "recent": [self.recent.steps, {name: float(v) for name, v in self.recent.sums.items()}],
            "best": self.best,
            "best_step": self.best_step,
            "waited": self.waited,
            "skipped": self.skipped,
        }
        state = self.optimiser.state_dict()["state"]
        save_checkpoint(folder, Checkpoint(self.step, tensors, state, facts), self.owner)
        self.saved_at = time.monotonic()
        return self.saved_at - began

    def _resume(self, folder: Path) -> None:
        found = load_checkpoint(folder, self.owner)
        if found is None:
            return
        self.model.load_state_dict(found.tensors["model"])
        if self.average is not None:
            self.average.restore(found.tensors["average"], found.step - int(found.facts["skipped"]))
        self.best_state = found.tensors.get("best")
        restore_optimiser(self.optimiser, found.optimiser)
        facts = found.facts
        self.step = self.resumed_from = found.step
        self.before_s = float(facts["seconds"])
        self.history = [(int(step), float(loss)) for step, loss in facts["history"]]
        self.recent.steps = int(facts["recent"][0])
        self.recent.sums = {name: torch.tensor(float(v)) for name, v in facts["recent"][1].items()}
        self.best, self.best_step = facts["best"], int(facts["best_step"])
        self.waited, self.skipped = int(facts["waited"]), int(facts["skipped"])
        done = share_done(self.settings, self.step, self.before_s)
        self.progress(done, f"going on from iteration {self.step}")


class _Means:
    """Means of the losses since the last point of the curve; kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add one step; an empty one (skipped) does not count."""
        self.steps += bool(losses)
        for name, value in losses.items():
            self.sums[name] = value + self.sums[name].to(value.device) if name in self.sums else value

    def take(self) -> dict[str, float]:
        """The means, and begin anew; empty where every step was skipped."""
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


def _optimiser(model: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """Groups: with and without weight decay, each at full and at slow rate; ``scale`` is the factor."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (parameter.ndim > 1, bool(settings.slow) and name.startswith(settings.slow))
            groups.setdefault(key, []).append(parameter)
    chosen: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "scale": settings.slow_factor if slow else 1.0,
        }
        for (decays, slow), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(chosen, lr=settings.lr)
    if settings.optimiser == "adam":
        return torch.optim.Adam(chosen, lr=settings.lr)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(chosen, lr=settings.lr, momentum=settings.momentum)
    raise ValueError(f"no optimiser is called {settings.optimiser!r}")


def _seed_step(seed: int, step: int, device: torch.device) -> None:
    """Seed torch by (seed, step): a resumed run draws what the undisturbed one would have drawn."""
    drawn = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]) >> 1
    # not torch.manual_seed: without a GPU in use it notes a stack trace for each call
    torch.default_generator.manual_seed(drawn)
    if device.type == "cuda":
        torch.cuda.manual_seed(drawn)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
