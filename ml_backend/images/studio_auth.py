"""The Authorization header for Label Studio, from either kind of API key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import httpx

from ml_backend.errors import StudioError

__all__ = ["StudioAuth"]

_ACCESS_LIFE_S: Final = 240.0


class StudioAuth:
    """The Authorization header for Label Studio, from either kind of token. Safe under threads.

    The token appears in no message.

    ``read_token`` gives the token as it is now; it is asked at the start and whenever one was refused.
    """

    def __init__(self, url: str, read_token: Callable[[], str], *, client: httpx.Client) -> None:
        self._url = url.rstrip("/")
        self._read_token = read_token
        self._token = read_token().strip()
        self._client = client
        self._lock = threading.Lock()
        self._access = ""
        self._until = 0.0

    @property
    def is_personal(self) -> bool:
        """True for a personal access token (three dot-separated parts), False for a legacy one."""
        return self._token.count(".") == 2

    def can_renew(self) -> bool:
        """Whether another header can be tried after a 401: the token is a personal one, or it has changed."""
        return self.is_personal or self._read_token().strip() != self._token

    def header(self, *, renew: bool = False) -> dict[str, str]:
        """Header to send; ``renew`` reads the token again (after a 401). Raises StudioError."""
        if renew and (token := self._read_token().strip()) != self._token:
            with self._lock:
                self._token, self._until = token, 0.0
        if not self._token:
            return {}
        if not self.is_personal:
            return {"Authorization": f"Token {self._token}"}
        with self._lock:
            if renew or time.monotonic() >= self._until:
                self._access = self._refresh()
                self._until = time.monotonic() + _ACCESS_LIFE_S
            return {"Authorization": f"Bearer {self._access}"}

    def _refresh(self) -> str:
        try:
            reply = self._client.post(f"{self._url}/api/token/refresh/", json={"refresh": self._token})
        except httpx.HTTPError as error:
            raise StudioError(
                f"Label Studio at {self._url} cannot be reached ({type(error).__name__})",
                hint="Check GROUNDSWELL_STUDIO_URL",
            ) from None
        if reply.status_code != 200:
            raise StudioError(
                f"Label Studio refused the personal access token (HTTP {reply.status_code})",
                hint="Make a new one under Account & Settings and set GROUNDSWELL_STUDIO_TOKEN",
                status=reply.status_code,
            )
        try:
            return str(reply.json()["access"])
        except (ValueError, KeyError, TypeError):
            raise StudioError("Label Studio's token reply has no access token") from None
