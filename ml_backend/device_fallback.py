"""Run a model on the CPU while its device is out of memory, then on the device again.

Memory is often short for a moment only: another process trains, a picture is huge. So the CPU takes over for
a pause, then the device is tried again; each further failure doubles the pause. Every change is logged and
told to a listener, which counts it in the metrics.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["DeviceChange", "DeviceFallback", "DeviceListener", "FallsBack"]

log = logging.getLogger(__name__)

PAUSE_S, LONGEST_PAUSE_S = 60.0, 1800.0


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """``model`` left ``device`` for the CPU (``fell_back``), or serves on it again; ``reason`` for people."""

    model: str
    device: str
    fell_back: bool
    reason: str


DeviceListener = Callable[[DeviceChange], None]


class DeviceFallback:
    """Where one model should run now; safe under threads. It moves nothing itself.

    Attributes
    ----------
    wanted : device asked for
    device : where the model runs now: ``wanted`` or ``cpu``
    notice : why the CPU is used although another device was asked for, else empty
    count : how often the CPU had to take over
    """

    def __init__(
        self,
        model: str,
        wanted: str,
        *,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.wanted = wanted
        self.device = wanted
        self.notice = ""
        self.count = 0
        self._first_pause_s = self._pause_s = pause_s
        self._clock = clock
        self._changed_at = clock()
        self._for_good = False
        self._listener: DeviceListener | None = None
        self._lock = threading.Lock()

    def watch(self, listener: DeviceListener) -> None:
        """Tell ``listener`` of every change; at once if the CPU serves already."""
        with self._lock:
            self._listener = listener
            away = bool(self.notice)
        if away:
            listener(DeviceChange(self.model, self.wanted, True, self.notice))

    def leave(self, reason: str, detail: object = "", *, for_good: bool = False) -> None:
        """The model moves to the CPU. ``reason`` continues a sentence about the device ("ran out of memory").

        With ``for_good`` the device is not tried again. ``detail`` goes to the log only.
        """
        with self._lock:
            now = self._clock()
            if self.device != "cpu" and now - self._changed_at > LONGEST_PAUSE_S:
                self._pause_s = self._first_pause_s  # it had been well for long
            elif self.count:
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            self.device = "cpu"
            self.count += 1
            self._changed_at = now
            self._for_good = for_good
            again = "" if for_good else f"; it is tried again in {self._pause_s:.0f} s"
            self.notice = f"{self.wanted} {reason}; {self.model} runs on the CPU, slower{again}"
            log.warning("%s (%s)", self.notice, _line(detail))
            self._tell(fell_back=True)

    def is_due(self) -> bool:
        """Whether the CPU serves and the device should be tried again now."""
        with self._lock:
            waiting = bool(self.notice) and not self._for_good
            return waiting and self._clock() - self._changed_at >= self._pause_s

    def come_back(self) -> None:
        """The device serves again."""
        with self._lock:
            self.device = self.wanted
            self._changed_at = self._clock()
            self.notice = ""
            log.warning("%s runs on %s again", self.model, self.wanted)
            self._tell(fell_back=False)

    def _tell(self, *, fell_back: bool) -> None:
        if self._listener is not None:
            self._listener(DeviceChange(self.model, self.wanted, fell_back, self.notice))


class FallsBack:
    """Mixin of models that run by a ``DeviceFallback``: where they run now, and why."""

    fallback: DeviceFallback

    @property
    def device(self) -> str:
        """Where it runs now."""
        return self.fallback.device

    @property
    def notice(self) -> str:
        """Why the CPU is used although another device was asked for; else empty."""
        return self.fallback.notice


def _line(detail: object) -> str:
    return (str(detail).splitlines() or [""])[0][:200]
