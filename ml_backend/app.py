"""The Flask app: routes of a few lines over ``GroundswellModel``.

Status codes: 400 for a wrong body (the JSON names the field), 401 without the right credentials, 404 for an
unknown project, route or crop, 413 for a body that is too large, 429 after too many wrong passwords, 502 when
Label Studio cannot be reached, 503 when a model cannot answer. Errors are JSON: ``{"error", "field",
"hint"}``. The status line repeats the message, because Label Studio passes only that line on to the browser.

``/predict`` with some tasks that have no answer is still a 200: their entry in ``results`` is an empty list,
of which Label Studio stores nothing, and ``errors`` says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, Final

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import IntegerConverter, Map

from ml_backend.authorisation import make_check
from ml_backend.error_lines import error_line
from ml_backend.errors import BadInput, GroundswellError, StudioError, TooMany, UnknownProject
from ml_backend.images.signed_links import crop_path
from ml_backend.label_studio.protocol import (
    MAX_ID,
    WEBHOOK_ACTIONS,
    PredictRequest,
    parse_body,
    parse_predict,
    parse_project_key,
    parse_setup,
    parse_webhook,
)
from ml_backend.log_fields import set_log_fields
from ml_backend.model import UNTRAINED, GroundswellModel
from ml_backend.services import Services
from ml_backend.settings import BackendSettings

__all__ = ["create_app", "error_response"]

_log = logging.getLogger(__name__)

_MAX_BODY: Final = 512 * 1024**2
_PREDICT_BUDGET_S: Final = 80.0  # Label Studio gives up after 100
_OPEN_ROUTES: Final = frozenset({"health", "crop"})  # health tells nothing; crops are behind signed links
_LOCKED: Final = (
    "Set GROUNDSWELL_BASIC_AUTH_USER and GROUNDSWELL_BASIC_AUTH_PASS for backend and worker, then run "
    "groundswell init; or GROUNDSWELL_OPEN_BACKEND=true where nobody but Label Studio can reach it"
)
_CROP_AGE_S: Final = 7 * 24 * 3600


class _Id(IntegerConverter):
    """Numbers of projects and tasks in paths: a larger one than databases hold names nothing (404)."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=MAX_ID)


def create_app(
    settings: BackendSettings | None = None,
    *,
    services: Services | None = None,
    own_access: Collection[str] = (),
) -> Flask:
    """Build the app. Loads no model. May be called many times in one process.

    ``own_access`` names the blueprints that decide by themselves who may call their routes. Routes of any
    other blueprint ask for the backend's credentials, as its own routes do.
    """
    shared = services or Services.from_settings(settings or BackendSettings())
    app = Flask("ml_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
    app.url_map.converters = {**app.url_map.converters, "int": _Id}
    app.extensions["groundswell"] = shared
    app.json.sort_keys = False  # type: ignore[attr-defined]
    _add_hooks(app, shared, frozenset(own_access))
    _add_model_routes(app, shared)
    _add_other_routes(app, shared)
    return app


def _add_model_routes(app: Flask, shared: Services) -> None:
    @app.get("/health")
    @app.get("/")
    def health() -> dict[str, Any]:
        """Answers at once, whatever the models do."""
        return {"status": "UP", "model_class": GroundswellModel.__name__}

    @app.post("/setup")
    def setup() -> dict[str, Any]:
        """Label Studio calls this often, while people wait: it reads two small files and loads no model."""
        wanted = parse_setup(parse_body(request.get_data(cache=False)))
        return GroundswellModel(shared, wanted.project, wanted.label_config).setup()

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        wanted = parse_predict(parse_body(request.get_data(cache=False)))
        model = GroundswellModel(shared, wanted.project, wanted.label_config)
        if wanted.context is not None:
            return {"results": [_click(shared, model, wanted)]}
        answers = model.predict_tasks(wanted.tasks, budget_s=_PREDICT_BUDGET_S)
        errors = [{"task": wanted.tasks[i].id, "error": text} for i, text in answers.errors.items()]
        return {"results": answers.results} | ({"errors": errors} if errors else {})

    @app.post("/webhook")
    def webhook() -> tuple[dict[str, Any], int]:
        """Leaves a note for the worker and answers: Label Studio waits for this in people's requests."""
        event = parse_webhook(request.get_data(cache=False), project=request.args.get("project"))
        shared.metrics.hooked(event.action if event.action in WEBHOOK_ACTIONS else "other")
        return GroundswellModel(shared, event.project).fit(event.action), 201

    @app.get("/versions")
    def versions() -> dict[str, Any]:
        key = request.args.get("project")
        if key is None:
            return {"versions": [], "message": "add ?project=<id>"}
        project_id = GroundswellModel(shared, parse_project_key(key)).project_id
        names = [v.version for v in shared.registry.versions(project_id)]
        return {"versions": names or [UNTRAINED], "current": shared.registry.current(project_id)}


def _add_other_routes(app: Flask, shared: Services) -> None:
    @app.get("/metrics")
    def metrics() -> Response:
        return Response(shared.metrics.render(), mimetype="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/crops/<int:project_id>/<key>.jpg")
    def crop(project_id: int, key: str) -> Response:
        """A review picture, for whoever has its signed link.

        Label Studio draws it on a canvas, for which browsers want the two cross-origin headers.
        """
        path = crop_path(project_id, key)
        if not shared.signer.verify(path, request.args.get("sig", ""), request.args.get("exp", "")):
            return error_response(403, "this link is not signed by this server or has expired", field="sig")
        found = shared.crops.find(project_id, key)
        if found is None:
            return error_response(404, f"there is no crop {key} of project {project_id}", field="key")
        response = Response(found.read_bytes(), mimetype="image/jpeg")
        response.set_etag(key)
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        response.headers["Cache-Control"] = f"public, max-age={_CROP_AGE_S}, immutable"
        response.make_conditional(request)
        return response


def _click(shared: Services, model: GroundswellModel, wanted: PredictRequest) -> dict[str, Any]:
    assert wanted.context is not None
    try:
        answer = model.click(wanted.tasks[0], wanted.context)
    except GroundswellError as error:
        shared.metrics.clicked(type(error).__name__)
        raise
    shared.metrics.clicked("ok")
    return answer


# around every request


def _add_hooks(app: Flask, shared: Services, own_access: frozenset[str]) -> None:
    check = make_check(shared.settings)
    locked = not (shared.settings.basic_auth_user or shared.settings.open_backend)
    if locked:
        _log.warning("the backend has no password, so it answers nobody but /health. %s", _LOCKED)

    @app.before_request
    def before() -> Response | None:
        g.began = time.perf_counter()
        set_log_fields(project=None)  # this thread answered somebody else before
        if request.endpoint in _OPEN_ROUTES or not own_access.isdisjoint(request.blueprints) or check():
            return None
        if locked:
            return error_response(401, "this backend has no password yet, so it answers nobody", hint=_LOCKED)
        response = error_response(
            401, "wrong or missing credentials", hint="Basic auth, or X-Groundswell-Secret for the webhook"
        )
        if shared.settings.basic_auth_user:
            response.headers["WWW-Authenticate"] = 'Basic realm="groundswell"'
        return response

    @app.after_request
    def after(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule is not None else "unknown"
        shared.metrics.request(
            route, response.status_code, time.perf_counter() - g.get("began", time.perf_counter())
        )
        return response

    @app.errorhandler(TooMany)
    def too_many(error: TooMany) -> Response:
        """Not logged: whoever asks too often would fill the disk with it."""
        response = error_response(429, error.message, field=error.field, hint=error.hint)
        response.headers["Retry-After"] = str(max(1, round(error.retry_s)))
        return response

    @app.errorhandler(GroundswellError)
    def known(error: GroundswellError) -> Response:
        if isinstance(error, UnknownProject):
            status = 404
        elif isinstance(error, BadInput):
            status = 400
        else:
            status = 502 if isinstance(error, StudioError) else 503
        _log.warning("%s: %s", _place(), error)
        return error_response(status, error.message, field=error.field, hint=error.hint)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return error_response(error.code or 500, error.description or error.name)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        _log.exception("%s failed", _place())
        return error_response(500, "internal error", hint="See the log of the backend")


def _place() -> str:
    """Where an error happened, for the log: paths of pages may hold a token, so their rule stands there."""
    rule = request.url_rule
    return rule.rule if request.blueprint and rule is not None else request.path


def error_response(status: int, message: str, *, field: str = "", hint: str = "") -> Response:
    """An error as every route of the backend answers it: JSON, with the message in the status line too."""
    response = jsonify({"error": message, "field": field, "hint": hint})
    words = error_line(message, field=field, hint=hint)
    line = "".join(c if " " <= c <= "~" else "?" for c in words)  # a status line is one line of ASCII
    response.status = f"{status} {line}"
    return response
