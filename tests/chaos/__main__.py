"""The long form: ``python -m tests.chaos --kills 1000 --soak-minutes 120``; prints JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from ml_backend.learners.registry import LEARNERS
from tests.chaos.life import Trouble, live, undisturbed
from tests.chaos.site import TESTS, servers
from tests.chaos.soak import soak
from tests.sync import tiny_learner

_PER_LIFE = 50


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="kills in all, in lives of 50")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the first life; the next one has the next"
    )
    parser.add_argument("--soak-minutes", type=float, default=120.0, help="minutes of work without a kill")
    asked = parser.parse_args()
    LEARNERS[tiny_learner.NAME] = tiny_learner.TARGET
    os.environ.setdefault("GROUNDSWELL_TRAIN_CLICKS", "false")
    # trainings know the tiny learner
    os.environ["PYTHONPATH"] = f"{TESTS / 'sync' / 'kill_site'}:{TESTS.parent}"
    total, started, lost, tried = Trouble(), time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="groundswell-chaos-") as name:
        folder = Path(name)
        with servers(folder / "servers") as (studio, postgres):
            calm = undisturbed(folder / "calm", studio, postgres)
            number = 0
            while tried < asked.kills:
                kills = min(_PER_LIFE, asked.kills - tried)
                tried += kills
                seed = asked.seed + number
                place = folder / f"life-{number}"
                try:
                    done = live(place, studio, postgres, kills=kills, seed=seed, calm=calm, large=kills > 20)
                except AssertionError as error:
                    _say(life=number, seed=seed, lost=str(error))
                    lost += 1
                else:
                    total.add(done)
                    facts = {"kills": done.kills, "faults": done.faults, "answers": done.answers}
                    _say(life=number, seed=seed, **facts, ended_by_themselves=done.ended_by_themselves)
                number += 1
            _say(
                name="kills without a loss",
                value=total.kills.total(),
                unit="kills",
                lives=number,
                lives_that_lost=lost,
                kills=total.kills,
                faults=total.faults,
                answers=total.answers,
                workers_that_ended_by_themselves=len(total.ended_by_themselves),
                seconds=round(time.monotonic() - started),
            )
            if asked.soak_minutes:
                curves = soak(
                    folder / "soak",
                    studio,
                    postgres,
                    seconds=60 * asked.soak_minutes,
                    report=lambda line: print(line, file=sys.stderr, flush=True),
                )
                for curve in curves:
                    first, *_, last = curve.quarters
                    _say(
                        name=f"memory of the {curve.name}",
                        value=round(last, 1),
                        unit="MB",
                        baseline=round(first, 1),
                        ratio=round(last / first, 3),
                        quarters=[round(value, 1) for value in curve.quarters],
                    )
    return 1 if lost else 0


def _say(**line: object) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
