"""Kill -9 at random moments over a real Label Studio and Postgres: nothing lost, nothing doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.life import Trouble, live, undisturbed
from tests.chaos.site import servers
from tests.sync.conftest import _tiny_learner

pytestmark = [pytest.mark.studio, pytest.mark.slow]

__all__ = ["_tiny_learner"]  # a fixture


@pytest.mark.timeout(1500)  # the time between kills grows with the time that the work takes
@pytest.mark.usefixtures("_tiny_learner")
def test_kills_and_faults_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    trouble = Trouble()
    with servers(tmp_path / "servers") as (studio, postgres):
        calm = undisturbed(tmp_path / "calm", studio, postgres)
        trouble.add(live(tmp_path / "1", studio, postgres, kills=24, seed=1, calm=calm))
    assert trouble.kills.total() == 24
    assert trouble.kills["worker"] > 10
