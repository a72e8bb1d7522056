"""Models off their device: pauses that grow, changes that are logged, told and counted."""

from __future__ import annotations

import pytest

from ml_backend.device_fallback import LONGEST_PAUSE_S, DeviceChange, DeviceFallback
from ml_backend.metrics import Metrics


def test_pauses_double_up_to_a_limit_and_start_over_after_a_long_time_on_the_device() -> None:
    now = [0.0]
    fallback = DeviceFallback("sam", "cuda", pause_s=60.0, clock=lambda: now[0])
    assert not fallback.is_due()
    pauses = []
    for _ in range(8):
        fallback.leave("ran out of memory")
        began = now[0]
        while not fallback.is_due():
            now[0] += 1.0
        pauses.append(now[0] - began)
    assert pauses == [60, 120, 240, 480, 960, 1800, 1800, 1800]
    fallback.come_back()
    assert (fallback.device, fallback.notice) == ("cuda", "")
    now[0] += LONGEST_PAUSE_S + 1
    fallback.leave("ran out of memory")
    now[0] += 60.0
    assert fallback.is_due()


def test_what_cannot_get_better_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    fallback = DeviceFallback("sam", "cuda", clock=lambda: now[0])
    fallback.leave("cannot run this model", "no such kernel", for_good=True)
    now[0] = 1e9
    assert not fallback.is_due()
    assert "no such kernel" in caplog.text
    assert "tried again" not in fallback.notice


def test_a_late_listener_hears_of_a_model_that_is_away_already() -> None:
    fallback = DeviceFallback("sam", "cuda")
    heard: list[DeviceChange] = []
    fallback.watch(heard.append)
    assert heard == []
    fallback.leave("ran out of memory")
    again: list[DeviceChange] = []
    fallback.watch(again.append)
    assert again == heard
    assert heard[0].fell_back
    assert "cuda ran out of memory" in heard[0].reason


def test_the_metrics_show_what_is_off_its_device() -> None:
    metrics = Metrics()
    fallback = DeviceFallback("sam", "cuda")
    fallback.watch(metrics.device_changed)
    fallback.leave("ran out of memory")
    shown = metrics.render().decode()
    assert 'groundswell_device_fallbacks_total{model="sam"} 1.0' in shown
    assert 'groundswell_models_off_device{model="sam"} 1.0' in shown
    fallback.come_back()
    shown = metrics.render().decode()
    assert 'groundswell_device_fallbacks_total{model="sam"} 1.0' in shown
    assert 'groundswell_models_off_device{model="sam"} 0.0' in shown
