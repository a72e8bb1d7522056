"""Refusals of a page's routes that the backend's own errors do not name: each carries its HTTP status."""

from __future__ import annotations

from flask import Flask, Response

from ml_backend.app import error_response
from ml_backend.errors import GroundswellError

__all__ = ["NotAllowed", "NotYet", "PageError", "SomebodyElse", "TooLarge", "answer_with_status"]


class PageError(GroundswellError):
    """A request that a page refuses with ``status``."""

    status = 400


class NotAllowed(PageError):
    """Nobody is signed in, or the link they came by is no longer valid."""

    status = 401


class SomebodyElse(PageError):
    """The page that asks is open for one person, and the cookie is by now of another."""

    status = 409


class NotYet(PageError):
    """What is asked for is being read from Label Studio; it will be there soon."""

    status = 503


class TooLarge(PageError):
    """The body is longer than anything that a page sends."""

    status = 413


def answer_with_status(app: Flask) -> None:
    """Let every ``PageError`` become a JSON answer with its own status."""

    @app.errorhandler(PageError)
    def refused(error: PageError) -> Response:
        return error_response(error.status, error.message, field=error.field, hint=error.hint)
