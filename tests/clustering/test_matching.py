"""The same masks in two pools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustering.matching import match_pools


def test_matching_is_one_to_one_and_best_first() -> None:
    old, new = match_pools(
        [0, 0, 1, 1, 2, 3], [5, 6, 5, 6, 7, 8], [0.95, 0.92, 0.97, 0.91, 0.89, 0.99], [1, 1, 1, 1, 1, 0]
    )
    # 1-5 is best, 0 gets 6 instead; 2-7 overlaps too little, 3-8 has another label
    assert old.tolist() == [0, 1]
    assert new.tolist() == [6, 5]
    assert match_pools([], [], [], [])[0].shape == (0,)
    with pytest.raises(ValueError, match="rows"):
        match_pools([0], [0, 1], [1.0], [True])
    with pytest.raises(ValueError, match="IoU"):
        match_pools([0], [0], [1.5], [True])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 8), st.integers(0, 8), st.sampled_from([0.5, 0.9, 0.93, 0.96, 1.0]), st.booleans()
        ),
        max_size=40,
        unique_by=lambda row: row[:2],
    )
)
def test_matching_invariants(rows: list[tuple[int, int, float, bool]]) -> None:
    table = np.array([(a, b, iou, same) for a, b, iou, same in rows], float).reshape(-1, 4)
    old, new = match_pools(table[:, 0], table[:, 1], table[:, 2], table[:, 3])
    usable = {(a, b): iou for a, b, iou, same in rows if same and iou >= 0.9}
    pairs = list(zip(old.tolist(), new.tolist(), strict=True))
    assert len(set(old.tolist())) == len(old) == len(set(new.tolist()))
    assert all(pair in usable for pair in pairs)
    # the same as taking candidates one after the other, best first
    taken: list[tuple[int, int]] = []
    for a, b in sorted(usable, key=lambda pair: (-usable[pair], pair)):
        if a not in {x for x, _ in taken} and b not in {y for _, y in taken}:
            taken.append((a, b))
    assert sorted(pairs) == sorted(taken)
