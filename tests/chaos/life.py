"""One life of a project: people work on it while its parts are killed, and then it comes to rest."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sync.local.label_studio_server import StudioServer
from sync.studio.client import Studio
from sync.worker.loop import Worker
from tests.chaos.checks import check, shown_to_people
from tests.chaos.people import FIRST, LATER, People
from tests.chaos.site import Site, make_world, open_site
from tests.conftest import LOGIN
from tests.postgres import PostgresServer
from tests.studio.test_kill_real import answer_open_tasks
from tests.sync.conftest import World

__all__ = ["Calm", "Trouble", "live", "undisturbed"]

_LOOKS = 40


@dataclass
class Trouble:
    """What was done to an installation, and how it took it."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    ended_by_themselves: list[str] = field(default_factory=list)
    """what workers said last that ended although nobody killed them"""

    def add(self, other: Trouble) -> None:
        self.kills += other.kills
        self.faults += other.faults
        self.answers += other.answers
        self.ended_by_themselves += other.ended_by_themselves


@dataclass(frozen=True)
class Calm:
    """A project that nobody disturbed: what people see in the end, and how long it took."""

    shown: list[Any]
    seconds: float


def undisturbed(folder: Path, server: StudioServer, postgres: PostgresServer) -> Calm:
    """The same work without any trouble."""
    folder.mkdir(parents=True)
    world = make_world(folder / "world", Studio(server.url, LOGIN.token), postgres.new_database())
    started = time.monotonic()
    world.label(*range(FIRST + LATER))
    come_to_rest(world)
    found = Calm(shown_to_people(world), time.monotonic() - started)
    world.store.close()
    return found


def live(
    folder: Path,
    server: StudioServer,
    postgres: PostgresServer,
    *,
    kills: int,
    seed: int,
    calm: Calm,
    large: bool = True,
) -> Trouble:
    """People work on a project while parts of it are killed ``kills`` times.

    The time between two kills is random, and on average so long that the work goes on in between: a sixth
    of what the whole work takes undisturbed, but no less than two seconds, because the lease of a killed
    worker has to run out. ``large``: Label Studio, Postgres and the backend, which need seconds to start, are
    killed once each as well. Raises AssertionError when anything is lost or there twice.
    """
    rng = random.Random(seed)
    mean_gap_s = max(2.0, calm.seconds / 6)
    done = Trouble()
    with open_site(folder, server, postgres) as site:
        people = People(site, rng)
        for number in range(FIRST):
            people.label(number)
        site.start_workers(2)
        people.start()
        plan = _plan(rng, kills, large)
        for number, what in enumerate(plan):
            time.sleep(rng.expovariate(1 / mean_gap_s))
            site.replace_ended()
            _do(site, what, rng, done)
            if number == len(plan) // 2 and people.corrected is None:
                people.correct()
        people.stop()
        site.stop_workers()
        if people.corrected is None:
            people.correct()
        done.ended_by_themselves = site.ended_by_themselves
        done.answers = sum(people.answered.values())
        come_to_rest(site.world)
        check(site.world, people)
        found = shown_to_people(site.world)
        others = [n for n in range(len(found)) if n not in people.labelled]
        assert [found[n] for n in others] == [calm.shown[n] for n in others], "people see something else"
    return done


def _plan(rng: random.Random, kills: int, large: bool) -> list[str]:
    trainings = max(1, kills // 12)
    between = {"cut": 2, "lose": 3, "slow": 1, "disk": 1}
    plan = ["worker"] * (kills - trainings - 3 * large)
    plan += rng.choices(list(between), list(between.values()), k=max(4, kills // 5))
    plan += ["backend", "studio", "postgres"] * large
    rng.shuffle(plan)
    for _ in range(trainings):  # early: later on nothing is left to train
        plan.insert(rng.randrange(len(plan) // 3 + 1), "training")
    return plan


def _do(site: Site, what: str, rng: random.Random, done: Trouble) -> None:
    """One kill or fault. Where no training comes that could be killed, a worker is."""
    if what in ("cut", "lose", "slow"):
        site.wire.harm(what)  # type: ignore[arg-type]
        done.faults[what] += 1
        return
    if what == "disk":
        done.faults[what] += site.fill_disk(rng.uniform(0.2, 1.0))
        return
    if what == "training":
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            if site.kill_training():
                done.kills[what] += 1
                return
            time.sleep(0.02)
        what = "worker"
    if what == "worker":
        site.kill_worker(rng.randrange(len(site.workers)))
    elif what == "backend":
        site.kill_backend()
    elif what == "studio":
        site.kill_studio()
    else:
        site.kill_postgres()
    done.kills[what] += 1


def come_to_rest(world: World) -> None:
    """Look, and answer what is asked, until nothing is left to do.

    A training that was killed is tried again a minute later, and once more five minutes later. Nobody
    waits for that here: a round is asked for, as an admin would.
    """
    quiet, force = 0, False
    for _ in range(_LOOKS):
        report = Worker(world.settings, world.store, world.studio).look(world.project_id, force_round=force)
        if report is None:  # the lease of a killed worker has to run out
            time.sleep(0.3)
            continue
        force = report.review is None
        if report.error:
            quiet = 0
            time.sleep(0.5)
            continue
        is_quiet = not report.trained and report.pushed is None and report.review and report.review.done
        quiet = quiet + 1 if is_quiet else 0
        if quiet == 2:
            return
        answer_open_tasks(world)
    raise AssertionError(f"the project never came to rest: {report}")
