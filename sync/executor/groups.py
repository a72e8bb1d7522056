"""Several inputs in one task of Ray: starting a task costs some 10 ms of CPU, on all machines together."""

from __future__ import annotations

from typing import Final

__all__ = ["GroupSize"]

_TASK_S: Final = 0.4
"""seconds that a task should take: long beside what its start costs, soon repeated if its machine is lost"""
_GROWS: Final = 4


class GroupSize:
    """How many inputs the next task should have, learned from how long the last ones took.

    Attributes
    ----------
    size : one at first, since nothing is known of the function; at least one
    """

    def __init__(self) -> None:
        self.size = 1

    def note(self, inputs: int, seconds: float) -> None:
        """A task with so many inputs took so long. It grows step by step: the first task loads models."""
        fit = int(_TASK_S * inputs / max(seconds, 1e-6))
        self.size = max(1, min(fit, self.size * _GROWS))

    def within(self, inputs: int) -> int:
        """The size for at most so many inputs."""
        return max(1, min(self.size, inputs))
