"""Routes of the review page, all below ``/review``."""

from __future__ import annotations

from flask import Blueprint
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from sync.web.access.shared import WebServices

__all__ = ["review_blueprint"]


def review_blueprint(web: WebServices) -> Blueprint:
    """The page, its API and its pictures."""
    pages = Blueprint("review", __name__, url_prefix="/review")

    @pages.get("/<path:anything>")
    def nothing(anything: str) -> Response:
        """Anything else: 404 for everybody, instead of the question for the password of the backend."""
        raise NotFound("there is no such page")

    return pages
