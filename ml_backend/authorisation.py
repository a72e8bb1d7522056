"""Who may ask the backend: Basic auth, or the webhook's secret; and how often somebody may guess them.

Wrong credentials count per network address. Whoever had too many waits, and so does the right password from
there, else guessing would go on. The same wrong credentials once more are no guess: a Label Studio that holds
an old password asks with it again and again. Wrong ones of all addresses together are limited too, for those
who have many addresses. An address from which the right ones came lately does not wait for that.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from typing import Final

from cachetools import LRUCache, TTLCache
from flask import request
from werkzeug.datastructures import Authorization

from ml_backend.rates import Rates, network_of
from ml_backend.settings import BackendSettings

__all__ = ["WrongCredentials", "make_check"]

_PER_ADDRESS, _TOGETHER = 30, 600
"""wrong credentials a minute from one address and from all together; a third may come at once"""
_KNOWN_S: Final = 24 * 3600.0
_NAMES: Final = 10_000


class WrongCredentials:
    """Counts wrong credentials in this process; methods are safe under threads."""

    def __init__(self) -> None:
        self._of_address = Rates(_PER_ADDRESS)
        self._of_all = Rates(_TOGETHER)
        self._known: TTLCache[str, bool] = TTLCache(_NAMES, _KNOWN_S)
        self._last: LRUCache[str, bytes] = LRUCache(_NAMES)
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises TooMany when nothing from this address is compared any more for now."""
        self._of_address.check(address)
        with self._lock:
            is_known = address in self._known
        if not is_known:
            self._of_all.check("")

    def right(self, address: str) -> None:
        """Note that the right credentials came from this address."""
        with self._lock:
            self._known[address] = True

    def wrong(self, address: str, given: str) -> None:
        """Count wrong credentials, unless they are the last ones from there again. Raises TooMany."""
        digest = hmac.digest(self._key, given.encode("utf-8", "surrogatepass"), hashlib.sha256)
        with self._lock:
            is_guess = self._last.get(address) != digest
            self._last[address] = digest
        if is_guess:
            self._of_address.spend(address)
            self._of_all.spend("")


def make_check(settings: BackendSettings) -> Callable[[], bool]:
    """Whether the present request may pass; the check raises TooMany after too many wrong credentials.

    All comparisons take constant time.
    """
    user, password = settings.basic_auth_user, settings.basic_auth_pass.get_secret_value()
    secret = settings.webhook_secret.get_secret_value()
    tries = WrongCredentials()

    def is_right() -> bool:
        given = _given()
        if user and given is not None and given.type == "basic":
            right_user = _same(given.username or "", user)
            if _same(given.password or "", password) and right_user:
                return True
        is_hook = request.endpoint == "webhook" and bool(secret)
        return is_hook and _same(request.headers.get("X-Groundswell-Secret", ""), secret)

    def allowed() -> bool:
        if not user and not (secret and request.endpoint == "webhook"):
            return settings.open_backend
        given = "\n".join(request.headers.get(name, "") for name in ("Authorization", "X-Groundswell-Secret"))
        if not given.strip():
            return False
        address = network_of(request.remote_addr or "")
        tries.check(address)
        if is_right():
            tries.right(address)
            return True
        tries.wrong(address, given)
        return False

    return allowed


def _given() -> Authorization | None:
    """What the header ``Authorization`` says; None without one that can be read."""
    try:
        return request.authorization
    except ValueError:  # werkzeug passes on what base64 says of other characters than ASCII
        return None


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(
        given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass")
    )
