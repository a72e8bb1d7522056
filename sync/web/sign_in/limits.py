"""How often somebody may try a password, so that guessing is slow and nobody can keep an admin out.

Tries count per network address, and per address and e-mail together: who tries passwords of somebody else
spends tries of their own address. Tries of one e-mail from everywhere together are limited as well, for those
who have many addresses. A browser in which this e-mail has signed in before carries a cookie that says so. It
has tries of its own, which no stranger can use up ("device cookies", OWASP, "Blocking brute force attacks").
"""

from __future__ import annotations

import secrets
from typing import Final

from flask import Response, request

from ml_backend.rates import Rates, network_of
from sync.settings import Settings
from sync.web.access.signing import Signed

__all__ = ["COOKIE", "SignInLimits"]

COOKIE: Final = "groundswell_known"
_AGE_S: Final = 180 * 24 * 3600
_PER_ADDRESS, _PER_PAIR, _PER_EMAIL = 30, 15, 60
"""tries a minute from one address, for an e-mail from one address, for an e-mail; a third may come at once"""


class SignInLimits:
    """Counts tries in this process."""

    def __init__(self, settings: Settings) -> None:
        self._signed = Signed(settings, "known browser")
        self._of_address = Rates(_PER_ADDRESS)
        self._of_pair = Rates(_PER_PAIR)
        self._of_email = Rates(_PER_EMAIL)
        self._https = settings.backend_url.startswith("https:")

    def spend(self, email: str) -> None:
        """Count a try of this request. Raises TooMany."""
        email = email.lower()
        known = self._known(email)
        if known:
            self._of_pair.spend(f"known {known}")
            return
        address = network_of(request.remote_addr or "")
        self._of_address.spend(address)
        self._of_pair.spend(f"{address} {email}")
        self._of_email.spend(email)

    def remember(self, response: Response, email: str) -> None:
        """Note in the browser that this e-mail has signed in here."""
        response.set_cookie(
            COOKIE,
            self._signed.sign({"email": email.lower(), "browser": secrets.token_hex(8)}),
            max_age=_AGE_S,
            path="/login",
            secure=self._https or request.is_secure,
            httponly=True,
            samesite="Strict",
        )

    def _known(self, email: str) -> str:
        """Name of the browser when this e-mail has signed in there, else empty."""
        try:
            value = self._signed.read(request.cookies.get(COOKIE, ""), max_age_s=_AGE_S)
        except ValueError:
            return ""
        if not isinstance(value, dict) or value.get("email") != email:
            return ""
        return str(value.get("browser", ""))
