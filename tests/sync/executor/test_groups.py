"""How many inputs one task of Ray has."""

from __future__ import annotations

from sync.executor.groups import GroupSize


def test_a_group_grows_step_by_step_to_a_fraction_of_a_second_and_shrinks_at_once() -> None:
    size = GroupSize()
    assert size.size == 1
    size.note(1, 5.0)  # the first task loaded a model
    assert size.size == 1
    sizes = []
    for _ in range(4):
        size.note(size.size, 0.02 * size.size)
        sizes.append(size.size)
    assert sizes == [4, 16, 20, 20]
    assert size.within(7) == 7
    assert size.within(0) == 1
    size.note(20, 8.0)  # slower inputs
    assert size.size == 1
    size.note(1, 0.0)
    assert size.size == 4
