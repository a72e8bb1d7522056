"""Clicks: what is passed on, what never is, and how errors are told."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ml_backend.errors import BadPrompt, ModelError, StudioError
from tests.ml_backend.served import CONTEXT, LABELS, Backend, FakeClicks, click


def test_clicks_go_to_the_click_service_without_private_work(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.publish()
    fake = FakeClicks(lambda: {"result": [{"id": "a"}], "score": 0.5, "model_version": "classical"})
    backend.services._clicks = fake  # type: ignore[assignment]
    with caplog.at_level(logging.DEBUG):
        reply = click(backend)
    assert reply.json == {"results": [{"result": [{"id": "a"}], "score": 0.5, "model_version": "classical"}]}
    sent, context, facts = fake.calls[0]
    assert sent == {"id": 1, "data": {"image": "/data/upload/1/1.png"}}
    assert context == CONTEXT
    assert facts.model_version == "r1-aaaa"
    assert "PRIVATE" not in caplog.text
    assert 'groundswell_clicks_total{outcome="ok"} 1.0' in backend.client.get("/metrics").text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (
            BadPrompt(
                "the click is outside the image", field="context.result[0]", hint="Click on the picture"
            ),
            400,
        ),
        (StudioError("Label Studio is away", hint="Start it"), 502),
        (ModelError("the checkpoint is missing", hint="groundswell models pull sam_vit_b"), 503),
    ],
)
def test_click_errors_reach_the_status_line(backend: Backend, error: Exception, status: int) -> None:
    def fail() -> dict[str, Any]:
        raise error

    backend.services._clicks = FakeClicks(fail)  # type: ignore[assignment]
    reply = click(backend)
    assert reply.status_code == status
    assert reply.json["error"] in str(error)
    assert reply.json["error"] in reply.status  # Label Studio passes nothing else on
    assert reply.json["hint"]
    assert "\n" not in reply.status


def test_clicks_work_in_a_project_connected_by_hand(backend: Backend) -> None:
    fake = FakeClicks(lambda: {"result": [], "score": 0.0, "model_version": ""})
    backend.services._clicks = fake  # type: ignore[assignment]
    assert click(backend, project="77.1").status_code == 200
    assert fake.calls[0][2].labels == LABELS
