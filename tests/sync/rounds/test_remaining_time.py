"""What a progress line says about the time that is left."""

from __future__ import annotations

from sync.rounds.remaining_time import Remaining


def test_the_time_left_follows_from_the_share_done_since_it_began() -> None:
    now = [100.0]
    remaining = Remaining(lambda: now[0])
    assert remaining.text(0.5) == ""  # half of it was done by an earlier run
    now[0] = 110.0
    assert remaining.text(0.51) == ""  # too little to tell
    assert remaining.text(0.6) == "about 40 s left"
    now[0] = 700.0
    assert remaining.text(0.75) == "about 10 min left"
    now[0] = 100.0 + 4 * 3600
    assert remaining.text(0.75) == "about 4.0 h left"
    assert remaining.text(1.0) == ""
    assert remaining.text(0.1) == ""  # begun anew
    now[0] += 9.0
    assert remaining.text(0.2) == "about 72 s left"
