"""Hours of ordinary work: does the memory of workers and backend stay the same?"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from ml_backend.errors import GroundswellError
from sync.local.label_studio_server import StudioServer
from sync.studio.client import Studio
from tests.chaos.people import FIRST, People
from tests.chaos.site import open_site
from tests.postgres import PostgresServer
from tests.sync.conftest import World

__all__ = ["MemoryCurve", "soak"]

_EVERY_S = 5.0


@dataclass(frozen=True)
class MemoryCurve:
    """Resident memory in MB over the time, of one process."""

    name: str
    megabytes: list[float]

    @property
    def quarters(self) -> list[float]:
        """Median of each quarter of the time."""
        size = max(1, len(self.megabytes) // 4)
        return [
            statistics.median(self.megabytes[i * size : (i + 1) * size] or self.megabytes) for i in range(4)
        ]


def soak(
    folder: Path,
    server: StudioServer,
    postgres: PostgresServer,
    *,
    seconds: float,
    report: Callable[[str], None],
) -> list[MemoryCurve]:
    """Let people change their labels and answer questions for so long, with a worker and a backend."""
    rng = random.Random(0)
    with open_site(folder, server, postgres) as site:
        people = People(site, rng)
        for number in range(FIRST):
            people.label(number)
        site.start_workers(1)
        people.start()
        backend = site.backend.process
        assert backend is not None
        (served,) = psutil.Process(backend.pid).children()
        watched = {"worker": psutil.Process(site.workers[0]), "backend": served}
        curves: dict[str, list[float]] = {name: [] for name in watched}
        end = time.monotonic() + seconds
        changes = 0
        while time.monotonic() < end:
            changes += _change_a_label(site.studio, site.world, rng)
            for name, process in watched.items():
                curves[name].append(process.memory_info().rss / 2**20)
            if changes % 20 == 0:
                report(f"{changes} changes, " + ", ".join(f"{n} {c[-1]:.0f} MB" for n, c in curves.items()))
            time.sleep(_EVERY_S)
        people.stop()
        assert site.workers == [watched["worker"].pid], "the worker lived through it"
    return [MemoryCurve(name, values) for name, values in curves.items()]


def _change_a_label(studio: Studio, world: World, rng: random.Random) -> bool:
    number = rng.randrange(FIRST)
    result = world.scenes[number].result()
    try:
        (annotation,) = studio.task(world.tasks[number]).annotations
        studio.update_annotation(annotation.id, result[: rng.randint(2, len(result))])
    except GroundswellError:
        return False
    return True
