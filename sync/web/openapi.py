"""``/openapi.json``: a description of all routes, for whoever writes a client and for tests of odd input.

The file lies beside this module. ``tests/sync/web/test_openapi.py`` compares it with the routes of the app.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from flask import Blueprint, Response

__all__ = ["API_FILE", "openapi_blueprint"]

API_FILE: Final = Path(__file__).with_suffix(".json")


def openapi_blueprint() -> Blueprint:
    """The route; it asks for the credentials of the backend, as the backend's own routes do."""
    blueprint = Blueprint("openapi", __name__)

    @blueprint.get("/openapi.json")
    def description() -> Response:
        return Response(API_FILE.read_bytes(), mimetype="application/json")

    return blueprint
