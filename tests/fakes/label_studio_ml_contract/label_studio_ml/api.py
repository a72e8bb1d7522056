"""The app: one for the whole process, with the routes that Label Studio calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request

from label_studio_ml.model import LabelStudioMLBase

_app = Flask(__name__)
_served: dict[str, Any] = {"class": LabelStudioMLBase, "login": None}
_EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")


def init_app(
    model_class: type[LabelStudioMLBase],
    basic_auth_user: str | None = None,
    basic_auth_pass: str | None = None,
) -> Flask:
    """Only subclasses of the base are taken; a user name counts together with a password only."""
    if not issubclass(model_class, LabelStudioMLBase):
        raise ValueError("not a subclass of LabelStudioMLBase")
    _served["class"] = model_class
    if basic_auth_user and basic_auth_pass:
        _served["login"] = (basic_auth_user, basic_auth_pass)
    return _app


def _errors_are_500(route: Callable[[], Any]) -> Callable[[], Any]:
    def guarded() -> Any:
        try:
            return route()
        except Exception as error:
            return jsonify({"detail": f"{type(error).__name__}: {error}"}), 500

    guarded.__name__ = route.__name__
    return guarded


@_app.before_request
def check_login() -> Response | None:
    given = request.authorization
    if _served["login"] is None or (given and (given.username, given.password) == _served["login"]):
        return None
    return Response("Unauthorized", 401)


@_app.get("/health")
def health() -> Any:
    return jsonify({"status": "UP", "model_class": _served["class"].__name__})


@_app.post("/setup")
@_errors_are_500
def setup() -> Any:
    body = request.json
    model = _served["class"](project_id=body["project"].split(".", 1)[0], label_config=body.get("schema"))
    if body.get("extra_params"):
        model.set_extra_params(body["extra_params"])
    return jsonify({"model_version": model.get("model_version")})


@_app.post("/predict")
@_errors_are_500
def predict() -> Any:
    body = request.json
    params = body.get("params", {})
    context = params.pop("context", {})
    model = _served["class"](
        project_id=str(body.get("project")).split(".", 1)[0], label_config=body.get("label_config")
    )
    found = model.predict(body.get("tasks"), context=context, **params)
    if isinstance(found, dict):
        found = found.get("predictions", found)
    return jsonify({"results": [] if found is None else found})


@_app.post("/webhook")
def webhook() -> Any:
    body = request.json
    event = body.pop("action")
    if event not in _EVENTS:
        return jsonify({"status": "Unknown event"}), 200
    model = _served["class"](str(body["project"]["id"]), label_config=body["project"]["label_config"])
    return jsonify({"result": model.fit(event, body), "status": "ok"}), 201
