"""How long something still takes, for progress bars and the lines of a log."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Remaining"]


class Remaining:
    """How long something still takes, if it goes on as so far.

    ``seconds`` is a clock that never goes back.
    """

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._began: tuple[float, float] | None = None

    def text(self, share: float) -> str:
        """``about 3 min left`` at this share done (0..1); empty while nothing can be said."""
        now = self._seconds()
        if self._began is None or share < self._began[1]:
            self._began = (now, share)  # what was done before, in an earlier run, took none of this time
        begin, before = self._began
        done = share - before
        if done < 0.02 or share >= 1.0:
            return ""
        left = (now - begin) * (1.0 - share) / done
        if left < 90.0:
            return f"about {max(round(left), 1)} s left"
        return (
            f"about {round(left / 60.0)} min left" if left < 5400.0 else f"about {left / 3600.0:.1f} h left"
        )
