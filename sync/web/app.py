"""The app that people and Label Studio reach: the backend's routes, and the pages of every blueprint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flask import Blueprint, Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from ml_backend.app import create_app
from ml_backend.services import Services
from sync.settings import Settings
from sync.store.database import Store
from sync.studio.protocol import StudioClient
from sync.web.access.errors import answer_with_status
from sync.web.access.headers import protect_pages
from sync.web.access.shared import EXTENSION, WebServices
from sync.web.dashboard.routes import dashboard_blueprint
from sync.web.openapi import openapi_blueprint
from sync.web.preview.routes import preview_blueprint
from sync.web.review.routes import review_blueprint
from sync.web.sign_in.routes import sign_in_blueprint

__all__ = ["create_web_app"]

_PAGES: Final[tuple[Callable[[WebServices], Blueprint], ...]] = (
    review_blueprint,
    sign_in_blueprint,
    dashboard_blueprint,
    preview_blueprint,
)
"""Each makes a blueprint whose routes decide by themselves who may call them."""


def create_web_app(
    settings: Settings,
    *,
    services: Services | None = None,
    store: Store | None = None,
    studio: StudioClient | None = None,
    review_studio: StudioClient | None = None,
) -> Flask:
    """Build the backend with all pages on it. Loads no model and opens no database.

    ``services``, ``store``, ``studio`` and ``review_studio`` replace those that the settings name (tests).
    """
    shared = services or Services.from_settings(settings)
    web = WebServices(settings, shared, store=store, studio=studio, review_studio=review_studio)
    blueprints = [make(web) for make in _PAGES]
    app = create_app(services=shared, own_access=[blueprint.name for blueprint in blueprints])
    app.extensions[EXTENSION] = web
    answer_with_status(app)
    if settings.proxies:
        n = settings.proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n)  # type: ignore[method-assign]
    for blueprint in blueprints:
        protect_pages(blueprint)
        app.register_blueprint(blueprint)
    app.register_blueprint(openapi_blueprint())
    return app
