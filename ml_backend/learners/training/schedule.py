"""The learning rate over a run."""

from __future__ import annotations

import math

from ml_backend.learners.training.settings import LoopSettings

__all__ = ["rate", "share_done"]

_MOST_WARM = 100


def share_done(settings: LoopSettings, step: int, seconds: float) -> float:
    """How much of the run lies behind after ``step`` steps and ``seconds``, 0..1: of the limit that comes
    first."""
    timed = seconds / settings.seconds if settings.seconds else 0.0
    return min(1.0, max(step / settings.iterations, timed))


def rate(settings: LoopSettings, step: int, seconds: float) -> float:
    """Factor of the peak learning rate for the step after ``step`` steps: warm-up, then the schedule."""
    total = settings.iterations
    warm = max(1, min(_MOST_WARM, int(settings.warmup * total)))
    done = share_done(settings, step, seconds)
    if step < warm and done < warm / total:
        return max((step + 1) / warm, done * total / warm)
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm / total) / max(1e-9, 1 - warm / total))))
