"""Headers of pages: nothing from elsewhere runs in them, no other site frames them, no address leaks."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response

__all__ = ["protect_pages"]

_POLICY: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def protect_pages(blueprint: Blueprint) -> None:
    """Set the headers on every answer of a blueprint; a route may set its own ``Cache-Control``."""

    @blueprint.after_request
    def headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers.setdefault("Cache-Control", "no-store")
        return response
