"""Which learner trains with which options."""

from __future__ import annotations

from typing import Any

import pytest

from ml_backend.errors import BadInput
from ml_backend.kinds.registry import Wanted
from sync.rounds.learner_choice import choose_learner
from sync.settings import Settings


def settings(**options: Any) -> Settings:
    return Settings(learner_options=options)


def test_a_kind_may_settle_options_of_its_learner() -> None:
    whole, parts = Wanted("segmentation", ("sky",)), Wanted("components", ("sky",))
    assert choose_learner([whole], settings(lr=1e-3)).options == {"lr": 1e-3, "unit": "mask"}
    assert choose_learner([parts], settings()).options == {"unit": "component"}
    assert choose_learner([parts], settings(unit="component")).name == "deeplabv3"
    with pytest.raises(BadInput, match="'mask' for kind segmentation") as caught:
        choose_learner([whole], settings(unit="component"))
    assert caught.value.field == "options.unit"


def test_so_for_the_second_of_several_targets() -> None:
    both = [Wanted("boxes", ("cell",)), Wanted("components", ("tissue",))]
    chosen = choose_learner(both, settings(iterations=3))
    assert chosen.name == "several"
    assert [part["options"] for part in chosen.options["parts"]] == [{"iterations": 3}, {"unit": "component"}]
