"""Retries, time-outs and errors of the Label Studio client, over a played transport."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import httpx
import pytest

from ml_backend.errors import StudioError
from sync.studio.client import Studio
from sync.studio.http import StudioHttp

TOKEN = "5f3e9d2c8b7a61504f3e2d1c0b9a887766554433"
Answer = httpx.Response | Exception


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    return waits


class Played:
    """Answers in turn; remembers the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers: Iterator[Answer] = iter(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def http(played: Callable[[httpx.Request], httpx.Response], **options: int) -> StudioHttp:
    headers = {"Authorization": f"Token {TOKEN}"}
    transport = httpx.MockTransport(played)
    return StudioHttp("http://studio.invalid/", lambda: headers, transport=transport, **options)


OK = {"id": 1}


def test_waiting_for_the_server_is_said_once_in_plain_words(caplog: pytest.LogCaptureFixture) -> None:
    played = Played(*[httpx.ConnectError("refused")] * 3, httpx.Response(200, json=OK))
    with caplog.at_level(logging.WARNING):
        assert http(played).get("/api/projects/1/") == OK
    (line,) = [record.getMessage() for record in caplog.records if record.name == "sync.studio.http"]
    assert "it is tried again" in line
    assert "refused" in line
    assert "locals" not in line


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_repeatable_call_is_repeated(status: int, slept: list[float]) -> None:
    played = Played(httpx.Response(status), httpx.Response(status), httpx.Response(200, json=OK))
    assert http(played).get("/api/projects/1/") == OK
    assert len(played.requests) == 3
    assert len(slept) == 2
    assert all(request.headers["authorization"] == f"Token {TOKEN}" for request in played.requests)


def test_a_time_out_of_a_repeatable_call_is_repeated() -> None:
    played = Played(httpx.ReadTimeout("slow"), httpx.Response(200, json=OK))
    assert http(played).call("PATCH", "/api/projects/1/", json={}) == OK


@pytest.mark.parametrize(
    "first", [httpx.Response(502), httpx.Response(503), httpx.ReadTimeout("slow"), httpx.ReadError("cut")]
)
def test_a_post_that_may_have_arrived_is_never_repeated(first: Answer) -> None:
    played = Played(first, httpx.Response(201, json=OK))
    with pytest.raises(StudioError):
        http(played).call("POST", "/api/tasks/1/annotations/", json={})
    assert len(played.requests) == 1


@pytest.mark.parametrize(
    "first", [httpx.Response(429), httpx.ConnectError("refused"), httpx.ConnectTimeout("x")]
)
def test_a_post_that_certainly_did_not_arrive_is_repeated(first: Answer) -> None:
    played = Played(first, httpx.Response(201, json=OK))
    assert http(played).call("POST", "/api/tasks/1/annotations/", json={}) == OK


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
def test_a_refusal_is_final_and_carries_status_and_detail(status: int) -> None:
    played = Played(httpx.Response(status, json={"detail": "because"}))
    with pytest.raises(StudioError, match=f"GET /api/x was answered with {status}: because") as caught:
        http(played).get("/api/x")
    assert caught.value.status == status
    assert caught.value.hint or status == 400
    assert len(played.requests) == 1


def test_a_request_that_is_too_large_says_what_to_change() -> None:
    played = Played(httpx.Response(413, text="too large"))
    with pytest.raises(StudioError) as caught:
        http(played).call("POST", "/api/x", json=[], hint="A task may have been deleted")
    assert "push_bytes" in caught.value.hint


def test_validation_errors_are_shown() -> None:
    body = {"detail": "Validation error", "validation_errors": {"title": ["too short"]}}
    with pytest.raises(StudioError, match="too short"):
        http(Played(httpx.Response(400, json=body))).call("POST", "/api/projects/", json={})


def test_it_gives_up_and_says_where_it_looked(slept: list[float]) -> None:
    played = Played(*[httpx.ConnectError("refused")] * 3)
    with pytest.raises(StudioError, match=r"Is Label Studio running at http://studio.invalid") as caught:
        http(played, attempts=3).get("/api/x")
    assert caught.value.status is None
    assert len(slept) == 2


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("7", 7.0, 7.0),
        ("100000", 30.0, 30.0),
        (600.0, 30.0, 30.0),
        (-600.0, 0.0, 0.0),
        ("soon", 0.0, 8.0),
    ],
)
def test_retry_after_is_honoured(header: str | float, low: float, high: float, slept: list[float]) -> None:
    if isinstance(header, float):  # seconds from now, as a date
        header = formatdate(time.time() + header, usegmt=True)
    played = Played(httpx.Response(429, headers={"Retry-After": header}), httpx.Response(200, json=OK))
    http(played).get("/api/x")
    (wait,) = slept
    assert low <= wait <= high


def test_another_server_at_the_address_is_recognised() -> None:
    with pytest.raises(StudioError, match="really a Label Studio"):
        http(Played(httpx.Response(200, text="<html>hello</html>"))).get("/api/version")


def test_an_empty_answer_is_none() -> None:
    assert http(Played(httpx.Response(204))).call("DELETE", "/api/annotations/1/") is None


def test_the_token_is_nowhere_but_in_the_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    played = Played(httpx.Response(503), httpx.Response(403, json={"detail": "no"}))
    made = http(played)
    with pytest.raises(StudioError) as caught:
        made.get("/api/x")
    texts = [repr(made), str(caught.value), caplog.text, repr(Studio("http://studio.invalid", TOKEN))]
    assert not any(TOKEN in text for text in texts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account_key", "mark/of+a=key"),
        ("aws_secret_access_key", "mark-of-a-key"),
        ("google_application_credentials", '{"private_key":\n "mark-of-a-key"}'),
    ],
)
def test_keys_of_buckets_that_a_server_repeats_are_hidden(name: str, value: str) -> None:
    told = f"cannot use {json.dumps({name: value})}, that is {value} or {value!r}"
    server = http(Played(httpx.Response(400, json={"detail": told})))
    with pytest.raises(StudioError, match="cannot use") as caught:
        server.call("POST", "/api/storages/azure/", json={name: value, "title": "t"})
    assert "mark" not in f"{caught.value!r} {caught.value}"


def test_a_missing_token_is_said_at_once() -> None:
    with pytest.raises(StudioError, match="GROUNDSWELL_STUDIO_TOKEN"):
        Studio("http://studio.invalid", "")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_token_is_read_again_once(method: str) -> None:
    tokens = ["new", "newer"]
    headers = {"Authorization": "Token old"}

    def renew() -> bool:
        headers["Authorization"] = f"Token {tokens.pop(0)}"
        return True

    def send(*answers: Answer) -> Played:
        played = Played(*answers)
        client = StudioHttp(
            "http://studio.invalid", lambda: dict(headers), renew=renew, transport=httpx.MockTransport(played)
        )
        assert client.call(method, "/api/projects/") == OK
        return played

    played = send(httpx.Response(401), httpx.Response(200, json=OK))
    assert [r.headers["authorization"] for r in played.requests] == ["Token old", "Token new"]
    with pytest.raises(StudioError, match="401"):
        send(httpx.Response(401), httpx.Response(401), httpx.Response(200, json=OK))


def test_a_token_that_did_not_change_is_not_tried_again() -> None:
    played = Played(httpx.Response(401), httpx.Response(200, json=OK))
    with pytest.raises(StudioError, match="GROUNDSWELL_STUDIO_TOKEN"):
        http(played).get("/api/projects/1/")
    assert len(played.requests) == 1
