"""One function that talks to Label Studio's REST API: time-outs, retries, errors in plain words.

The SDK client holds the address and the token (legacy, or a personal token that it refreshes) and makes the
headers; the requests themselves do not go through its generated methods, because those retry a POST after a
5xx, which may store an annotation twice, and because they lack the calls that make polling cheap
(``include``, model versions).
"""

from __future__ import annotations

import email.utils
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
import tenacity

from ml_backend.errors import StudioError
from ml_backend.tls import tls_context

__all__ = ["HINTS", "StudioHttp"]

log = logging.getLogger(__name__)

_RETRIED = frozenset({429, 502, 503, 504})
_LONGEST_WAIT_S = 30.0
_LONGEST_DETAIL = 300
_IS_JSON = {"Content-Type": "application/json"}
_SECRET_NAME = re.compile("pass|secret|token|credential|_key$", re.IGNORECASE)
HINTS = {
    401: "The token is wrong or expired, or legacy tokens are disabled: check GROUNDSWELL_STUDIO_TOKEN",
    403: "The user may not do this, or Label Studio blocks the address",
    404: "It may have been deleted",
    413: "Let the proxy in front of Label Studio take larger requests, or send less at once (push_bytes)",
    429: "Label Studio asks to wait",
}


class StudioHttp:
    """Requests to one Label Studio as one user.

    Parameters
    ----------
    base_url : address of the server
    headers : makes the headers of a request, the authorisation among them
    renew : called after a 401; True when ``headers`` now makes others, so that the call is worth repeating
    read_timeout_s : longest silence of the server within one answer
    attempts : how often a call that may be repeated is tried
    transport : how requests travel; tests pass their own
    """

    def __init__(
        self,
        base_url: str,
        headers: Callable[[], Mapping[str, str]],
        *,
        renew: Callable[[], bool] = lambda: False,
        read_timeout_s: float = 120.0,
        attempts: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._make_headers = headers
        self._renew = renew
        timeout = httpx.Timeout(connect=5.0, read=read_timeout_s, write=read_timeout_s, pool=10.0)
        self._http = httpx.Client(
            base_url=self.base_url, timeout=timeout, transport=transport, verify=tls_context()
        )
        self._attempts = attempts
        self.server_time: datetime | None = None
        """the ``Date`` of the last answer: what the server's clock said then, in whole seconds"""

    def __repr__(self) -> str:
        return f"StudioHttp({self.base_url!r})"

    def get(self, path: str, **params: Any) -> Any:
        return self.call("GET", path, params=params)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: bytes | None = None,
        files: Any = None,
        repeatable: bool | None = None,
        hint: str = "",
        read_timeout_s: float | None = None,
    ) -> Any:
        """Send one request and return the parsed JSON of the answer (None when it has no body).

        ``content`` is a body that is JSON already.

        ``repeatable`` says that doing it twice is the same as doing it once; by default that is every method
        but POST. Other calls are tried again only when Label Studio certainly did not begin with them (no
        connection, or status 429). Raises StudioError.
        """
        safe = method != "POST" if repeatable is None else repeatable
        extra: dict[str, Any] = {}
        if read_timeout_s is not None:
            extra["timeout"] = httpx.Timeout(
                connect=5.0, read=read_timeout_s, write=read_timeout_s, pool=10.0
            )

        def once() -> Any:
            headers = {**self._headers(), **({} if content is None else _IS_JSON)}
            try:
                response = self._http.request(
                    method,
                    path,
                    params=params,
                    json=json,
                    content=content,
                    files=files,
                    headers=headers,
                    **extra,
                )
            except httpx.HTTPError as error:
                raise _unreachable(error, method, path, self.base_url) from error
            self.server_time = _date(response.headers.get("date")) or self.server_time
            if response.status_code >= 400:
                raise _refused(response, method, path, hint, json)
            if response.status_code == 204 or not response.content:
                return None
            try:
                return response.json()
            except ValueError as error:
                raise StudioError(
                    f"{method} {path} did not answer with JSON",
                    hint=f"Is {self.base_url} really a Label Studio?",
                    status=response.status_code,
                ) from error

        def again(error: BaseException) -> bool:
            if not isinstance(error, _Call):
                return False
            return error.status == 429 or error.never_sent or (safe and error.passing)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=_wait,
            retry=tenacity.retry_if_exception(again),
            before_sleep=_say_waiting,
            reraise=True,
        )
        try:
            return retrying(once)
        except StudioError as error:
            # a refused token means that nothing was done, so even a POST may be sent again
            if error.status != 401 or not self._renew():
                raise
        return retrying(once)

    def probe(self, path: str, *, hint: str) -> None:
        """Raise StudioError when the server does not serve ``path``; the body is not read."""
        try:
            with self._http.stream("GET", path, headers=self._headers()) as response:
                if response.status_code != 200:
                    raise StudioError(
                        f"Label Studio does not serve {path} ({response.status_code})",
                        hint=hint,
                        status=response.status_code,
                    )
        except httpx.HTTPError as error:
            raise _unreachable(error, "GET", path, self.base_url) from error

    def _headers(self) -> Mapping[str, str]:
        try:
            return self._make_headers()
        except httpx.HTTPError as error:  # a personal token is exchanged for an access token over the network
            raise _unreachable(error, "POST", "/api/token/refresh/", self.base_url) from error


class _Call(StudioError):
    """A failed call, with what the retry decision needs."""

    passing = False
    never_sent = False
    retry_after_s: float | None = None


def _unreachable(error: httpx.HTTPError, method: str, path: str, base_url: str) -> _Call:
    what = "timed out" if isinstance(error, httpx.TimeoutException) else "failed"
    call = _Call(
        f"{method} {path} {what}: {type(error).__name__}: {error}",
        hint=f"Is Label Studio running at {base_url}?",
    )
    call.passing = True
    call.never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    return call


def _refused(response: httpx.Response, method: str, path: str, hint: str, sent: Any) -> _Call:
    status = response.status_code
    detail = _detail(response)
    # errors are logged, kept in the store and shown: a server may repeat what it was told, the token too
    for secret in (*_values(response.request.headers.get("authorization", "")), *_secrets_in(sent)):
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):  # as it may be quoted
            detail = detail.replace(form, "***")
    detail = detail[:_LONGEST_DETAIL]
    default = HINTS.get(status, "See the log of Label Studio" if status >= 500 else "")
    if status == 413:  # whatever was asked, this is why
        hint = default
    call = _Call(f"{method} {path} was answered with {status}: {detail}", hint=hint or default, status=status)
    call.passing = status in _RETRIED
    call.retry_after_s = _retry_after(response.headers.get("retry-after"))
    return call


def _values(authorization: str) -> list[str]:
    """The token of a header, without the word before it."""
    return authorization.split()[-1:]


def _secrets_in(sent: Any, name: str = "") -> Iterator[str]:
    """Values of a body whose names say that they are secret."""
    if isinstance(sent, Mapping):
        for key, value in sent.items():
            yield from _secrets_in(value, str(key))
    elif isinstance(sent, list):
        for value in sent:
            yield from _secrets_in(value, name)
    elif isinstance(sent, str) and sent and _SECRET_NAME.search(name):
        yield sent


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.reason_phrase or "no detail"
    if isinstance(body, dict):
        text = str(body.get("detail") or "")
        fields = body.get("validation_errors")
        return f"{text} {fields}".strip() if fields else text or str(body)
    return str(body)


def _date(value: str | None) -> datetime | None:
    """The time in a ``Date`` header, None when absent or unreadable."""
    try:
        return None if not value else email.utils.parsedate_to_datetime(value).astimezone(UTC)
    except ValueError:
        return None


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (a number or an HTTP date), None when absent or unreadable."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _say_waiting(state: tenacity.RetryCallState) -> None:
    """One line for the first repetition of a call, as people read it; the others say nothing new."""
    error = state.outcome.exception() if state.outcome is not None else None
    log.log(
        logging.WARNING if state.attempt_number == 1 else logging.DEBUG,
        "Label Studio did not take a request, it is tried again: %s",
        error.message if isinstance(error, StudioError) else error,
    )


_backoff = tenacity.wait_random_exponential(multiplier=0.5, max=8.0)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, _Call) and error.retry_after_s is not None:
        return min(error.retry_after_s, _LONGEST_WAIT_S)
    return _backoff(state)
