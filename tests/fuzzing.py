"""What tests share that throw random input at an edge: odd values, and how many examples are tried."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ml_backend.errors import BadInput

T = TypeVar("T")

__all__ = ["TIMES", "fuzz", "junk", "numbers", "refusal", "texts"]

TIMES: Final = int(os.environ.get("GROUNDSWELL_FUZZ", "1"))
"""``make fuzz`` tries this many times as many examples as a run of all tests"""


def fuzz(examples: int) -> settings:
    """Settings of a test with so many examples in CI."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,  # whether a change may land must not depend on luck
        deadline=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
            HealthCheck.function_scoped_fixture,
        ],
    )


def refusal(call: Callable[[], T]) -> T | BadInput:
    """What a call gives, or how it refuses its input. Any other error is a fault."""
    try:
        return call()
    except BadInput as error:
        return error


texts = st.text(max_size=12) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\ud800",
        "a\nb",
        "../../etc/passwd",
        "<script>",
        "'; DROP TABLE tasks; --",
        "x" * 5000,
        "٣",
        "é",
    ]
)
numbers = (
    st.integers(-3, 120)
    | st.floats(-5, 200)
    | st.sampled_from(
        [0, -1, 1e300, -1e300, 1e-300, 1e9, 2**31 - 1, 2**31, 2**63, -(2**63) - 1, 10**400, float("nan")]
    )
    | st.sampled_from([float("inf"), -float("inf")])
)
junk: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
"""any JSON value, with the numbers and texts that break things among them"""
