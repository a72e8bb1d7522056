"""The preview of a project on the dashboard: ``/dashboard/<project>/preview``."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files
from typing import Final

import jinja2
from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import NotFound

from ml_backend.errors import GroundswellError
from sync.report.render_preview import asset, render_preview
from sync.web.access.posts import posted_json
from sync.web.access.shared import WebServices
from sync.web.preview.making import Previews
from sync.web.sign_in.sessions import Sessions, ask_for_sign_in

__all__ = ["preview_blueprint"]

_FILES: Final = {
    "preview.css": "text/css",
    "preview.js": "text/javascript",
    "preview_make.js": "text/javascript",
}
_AT: Final = "/dashboard/preview-files"


def preview_blueprint(web: WebServices) -> Blueprint:
    """The page, the state of its making, and the button that makes it."""
    blueprint = Blueprint("preview", __name__, url_prefix="/dashboard")
    ask_for_sign_in(blueprint, Sessions(web.settings), open_routes=frozenset({"file"}))
    previews = Previews(web)

    @blueprint.get("/preview-files/<name>")
    def file(name: str) -> Response:
        """Style and scripts; they tell nothing of any project."""
        if name not in _FILES:
            raise NotFound("there is no such file")
        text = _script(name) if name == "preview_make.js" else asset(name)
        response = Response(text, mimetype=_FILES[name])
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        response.make_conditional(request)
        return response

    @blueprint.get("/<int:project_id>/preview")
    def page(project_id: int) -> Response:
        back = f"/dashboard/{project_id}"
        try:
            data = previews.stored(project_id)
            if data is None or "anew" in request.args:
                return _wait(project_id, data is not None)
        except GroundswellError as error:
            response = _wait(project_id, False, error=str(error))
            response.status_code = 404
            return response
        html = render_preview(
            data,
            css_url=f"{_AT}/preview.css",
            js_url=f"{_AT}/preview.js",
            back_url=back,
            anew_url=f"{back}/preview?anew=1",
        )
        return Response(html, mimetype="text/html")

    @blueprint.get("/<int:project_id>/preview.json")
    def state(project_id: int) -> Response:
        return jsonify(asdict(previews.making(project_id)))

    @blueprint.post("/<int:project_id>/preview")
    def make(project_id: int) -> Response:
        posted_json()
        return jsonify({"begun": previews.begin(project_id)})

    return blueprint


def _wait(project_id: int, has_old: bool, *, error: str = "") -> Response:
    """The page before there is a preview, and while one is made."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sync.web.preview", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    html = environment.get_template("wait.html.j2").render(
        project=project_id, has_old=has_old, error=error, files=_AT
    )
    return Response(html, mimetype="text/html")


def _script(name: str) -> str:
    return (files("sync.web") / "static" / "preview" / name).read_text()
