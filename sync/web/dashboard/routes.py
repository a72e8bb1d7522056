"""Routes of the dashboard, all below ``/dashboard``, for people who are signed in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from typing import Final, ParamSpec

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from ml_backend.errors import BadInput, GroundswellError
from sync.dashboard.render import page_file, render_page, render_report
from sync.projects.control import pause, request_round, resume, serve_version
from sync.review.revoke import revoke
from sync.web.access.posts import posted_json
from sync.web.access.shared import WebServices
from sync.web.dashboard.pages import Pages, etag_of, live_json
from sync.web.sign_in.sessions import Sessions, ask_for_sign_in

__all__ = ["dashboard_blueprint"]

P = ParamSpec("P")

_TYPES: Final = {".css": "text/css", ".js": "text/javascript"}
_CLUSTERS_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'"
)
"""the page of clusters has its script inside; in a sandbox it can reach neither the cookie nor this server"""


def dashboard_blueprint(web: WebServices) -> Blueprint:
    """The pages, their JSON, and what their buttons do."""
    blueprint = Blueprint("dashboard", __name__, url_prefix="/dashboard")
    sessions, pages = Sessions(web.settings), Pages(web)
    ask_for_sign_in(blueprint, sessions, open_routes=frozenset({"file"}))
    _add_pages(blueprint, web, sessions, pages)
    _add_json(blueprint, pages)
    _add_actions(blueprint, web)
    _add_invites(blueprint, web)
    return blueprint


def _add_pages(blueprint: Blueprint, web: WebServices, sessions: Sessions, pages: Pages) -> None:
    @blueprint.get("/files/<name>")
    def file(name: str) -> Response:
        """Style and scripts; they tell nothing, and the form at /login needs them."""
        kind = _TYPES.get(name[name.rfind(".") :])
        if kind is None or "/" in name or name.startswith("."):
            raise NotFound("there is no such file")
        try:
            text = page_file(name) if kind == "text/css" else _script(name)
        except (FileNotFoundError, ValueError):  # a name with a zero byte is none
            raise NotFound("there is no such file") from None
        response = Response(text, mimetype=kind)
        response.headers["Cache-Control"] = "no-cache"
        response.set_etag(etag_of(text))
        response.make_conditional(request)
        return response

    @blueprint.get("")
    @blueprint.get("/")
    @_as_page
    def projects() -> Response:
        rows = pages.rows()
        return _html(
            render_page(
                "list.html.j2",
                title="Projects",
                script="dashboard.js",
                projects=rows,
                email=sessions.email(),
                etag="",
            )
        )

    @blueprint.get("/<int:project_id>")
    @_as_page
    def project(project_id: int) -> Response:
        digest, figures = pages.figures(project_id)
        return _html(
            render_page(
                "project.html.j2",
                title=figures.title,
                script="dashboard.js",
                p=figures,
                live=pages.live(project_id),
                email=sessions.email(),
                studio_url=web.settings.shown_studio_url,
                figures_digest=digest,
                etag="",
            )
        )

    @blueprint.get("/<int:project_id>/report.html")
    @_as_page
    def report(project_id: int) -> Response:
        _, figures = pages.figures(project_id)
        response = _html(render_report([(figures, pages.live(project_id))]))
        response.headers["Content-Disposition"] = f'attachment; filename="report-{project_id}.html"'
        return response

    @blueprint.get("/<int:project_id>/clusters")
    @_as_page
    def clusters(project_id: int) -> Response:
        return _html(pages.cluster_page(project_id).read_text())

    @blueprint.get("/<path:anything>")
    @_as_page
    def nothing(anything: str) -> Response:
        """Instead of the question for the password of the backend."""
        raise BadInput("there is no such page", field="address")

    @blueprint.after_request
    def let_clusters_run(response: AnyResponse) -> AnyResponse:
        if request.endpoint == "dashboard.clusters" and response.mimetype == "text/html":
            response.headers["Content-Security-Policy"] = _CLUSTERS_POLICY
        return response


def _add_json(blueprint: Blueprint, pages: Pages) -> None:
    @blueprint.get("/live.json")
    def live_of_all() -> AnyResponse:
        rows = pages.rows()
        return _tagged([[r.id, r.title, r.tasks, r.finished, r.troubles, live_json(r.live)] for r in rows])

    @blueprint.get("/<int:project_id>/live.json")
    def live(project_id: int) -> AnyResponse:
        """The state of now; 304 while the page has it. ``figures`` tells when to load those again."""
        return _tagged({"figures": pages.digest(project_id), "live": live_json(pages.live(project_id))})


def _add_actions(blueprint: Blueprint, web: WebServices) -> None:
    @blueprint.post("/<int:project_id>/round")
    def start(project_id: int) -> Response:
        posted_json()
        if not request_round(web.settings, web.store, project_id):
            return jsonify({"says": "A round was asked for already; the worker has not begun it yet."})
        return jsonify({"says": "The worker starts a round at its next look, once the present one is shown."})

    @blueprint.post("/<int:project_id>/pause")
    def stop(project_id: int) -> Response:
        what = posted_json().get("what", "asking")
        if what == "all":
            pause(web.settings, web.store, project_id, "all")
            return jsonify({"says": "Paused. Nothing is trained, asked or shown until you resume."})
        if what != "asking":
            raise BadInput(f"{str(what)[:20]!r} is no pause", field="what", hint="One of asking, all")
        pause(web.settings, web.store, project_id, "asking")
        return jsonify({"says": "No new questions are asked until you resume."})

    @blueprint.post("/<int:project_id>/resume")
    def go_on(project_id: int) -> Response:
        posted_json()
        ended = resume(web.settings, web.store, project_id)
        return jsonify({"says": "The worker goes on." if ended else "It was not paused."})

    @blueprint.post("/<int:project_id>/serve")
    def serve(project_id: int) -> Response:
        version = posted_json().get("version")
        if not isinstance(version, str):
            raise BadInput("which version?", field="version", hint="Send its name as text")
        begins = serve_version(web.settings, web.store, project_id, version)
        text = f"{version} looks at all open tasks at the worker's next look, and serves then."
        return jsonify({"says": text if begins else f"{version} serves already."})


def _add_invites(blueprint: Blueprint, web: WebServices) -> None:
    @blueprint.post("/<int:project_id>/revoke")
    def withdraw(project_id: int) -> Response:
        invite = posted_json().get("invite")
        if not isinstance(invite, str):
            raise BadInput("which invite?", field="invite", hint="Send its id as text")
        gone = revoke(web.store, invite, project_id=project_id)
        return jsonify({"says": f"The link of {gone.name} is withdrawn."})


def _as_page(show: Callable[P, Response]) -> Callable[P, Response]:
    """A page that cannot be shown says why, as a page."""

    @wraps(show)
    def shown(*args: P.args, **named: P.kwargs) -> Response:
        try:
            return show(*args, **named)
        except GroundswellError as error:
            response = _html(render_page("error.html.j2", title="Not shown", error=error))
            response.status_code = 404 if isinstance(error, BadInput) else 503
            return response

    return shown


def _script(name: str) -> str:
    return (files("sync.web") / "static" / "dashboard" / name).read_text()


def _html(page: str) -> Response:
    return Response(page, mimetype="text/html")


def _tagged(value: object) -> AnyResponse:
    """JSON with an entity tag; 304 when the browser has it already."""
    response = jsonify(value)
    response.set_etag(etag_of(value))
    return response.make_conditional(request)
