"""Settings of the training loop. Without torch, so that options can be checked where it is not installed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoopSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How a network is trained.

    Attributes
    ----------
    iterations : optimiser steps
    lr : peak learning rate
    optimiser : ``adamw``, ``adam`` (weight decay added to the gradient), ``sgd``
    momentum : of ``sgd``
    weight_decay : of weights; biases and scales of normalisation have none
    slow : beginnings of parameter names whose learning rate is ``slow_factor`` of the others' (a backbone
        with published weights)
    slow_factor : see ``slow``
    schedule : ``cosine`` to zero, or ``constant``; both after the warm-up
    warmup : share of the run in which the rate rises linearly, at most 100 steps
    clip : largest norm of the gradient; 0 = no limit
    ema : decay of the moving average of the weights, which is what is validated and kept; 0 = none
    amp : bfloat16 for the forward pass: ``auto`` (on devices that compute in it natively), ``on``, ``off``
    validate_every : steps between two validations; 0 = never (only where ``fit`` is given ``validate``)
    patience : validations without a better value after which training stops; 0 = never
    seconds : most seconds of training, 0 = no limit. The learning rate falls to its end by then, whether the
        iterations are done or not.
    checkpoint_s : seconds between two checkpoints (only where ``fit`` is given a folder)
    """

    iterations: int
    lr: float
    optimiser: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.0
    slow: tuple[str, ...] = ()
    slow_factor: float = 0.1
    schedule: str = "cosine"
    warmup: float = 0.1
    clip: float = 0.0
    ema: float = 0.0
    amp: str = "auto"
    validate_every: int = 0
    patience: int = 0
    seconds: float = 0.0
    checkpoint_s: float = 30.0
