"""Routes of the review page, all below ``/review``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, redirect, request, send_file, send_from_directory
from werkzeug.exceptions import Forbidden, NotFound
from werkzeug.wrappers import Response as AnyResponse

from ml_backend.errors import BadImage, BadInput
from sync.store.database import utc_now
from sync.web.access.posts import posted_json
from sync.web.access.shared import WebServices
from sync.web.review.answering import Answering
from sync.web.review.pictures import Pictures
from sync.web.review.sessions import Door
from sync.web.review.streams import parse_stream

__all__ = ["review_blueprint"]

_FILES: Final = Path(__file__).resolve().parent.parent / "static" / "review"
_MOST_CARDS: Final = 30
_PICTURE_AGE_S: Final = 3600
"""longer than a card is looked at; short, as a browser shows what it keeps after a link was withdrawn, too"""


def review_blueprint(web: WebServices) -> Blueprint:
    """The page, its API and its pictures."""
    pages = Blueprint("review", __name__, url_prefix="/review")
    door = Door(web)
    pictures = Pictures(web)
    _add_page(pages, door)
    _add_api(pages, web, door, Answering(web, pictures))
    _add_pictures(pages, pictures)

    @pages.route("/<path:anything>", methods=["GET", "POST"])
    def nothing(anything: str) -> AnyResponse:
        """Anything else: 404 for everybody, instead of the question for the password of the backend."""
        raise NotFound("there is no such page")

    return pages


def _add_page(pages: Blueprint, door: Door) -> None:
    @pages.get("/")
    def page() -> AnyResponse:
        return _revalidated(send_from_directory(_FILES, "index.html"))

    @pages.get("/static/<path:name>")
    def static(name: str) -> AnyResponse:
        return _revalidated(send_from_directory(_FILES, name))

    @pages.get("/i/<token>")
    def invite(token: str) -> AnyResponse:
        """The link that people were sent: a cookie takes the token's place, so that no address shows it."""
        response = redirect("/review/", 303)
        wrong = door.open_link(token, response)
        return redirect(f"/review/?link={wrong}", 303) if wrong else response


def _add_api(pages: Blueprint, web: WebServices, door: Door, answering: Answering) -> None:
    @pages.get("/api/me")
    def me() -> dict[str, Any]:
        return answering.about(door.person())

    @pages.get("/api/cards")
    def cards() -> dict[str, Any]:
        person = door.person()
        mode = parse_stream(request.args.get("stream", ""), person)
        have = [name for name in request.args.get("have", "").split(",") if name]
        order = request.args.get("order", "")
        return answering.cards(
            person,
            mode,
            count=_count(request.args.get("n", "12")),
            have=have,
            shown=request.args.get("shown", ""),
            order=order,
        )

    @pages.post("/api/answers")
    def answers() -> dict[str, Any]:
        person = door.person()
        body = posted_json()
        return answering.answer(person, body.get("answers"), body.get("shown", ""))

    @pages.post("/api/give-back")
    def give_back() -> dict[str, Any]:
        person = door.person()
        return answering.give_back(person, posted_json().get("cards"))

    @pages.post("/api/undo")
    def undo() -> dict[str, Any]:
        person = door.person()
        return answering.undo(person, posted_json().get("card"))

    @pages.get("/api/stats")
    def stats() -> dict[str, Any]:
        person = door.person()
        stream = request.args.get("stream", "")
        mode = parse_stream(stream, person) if stream else person.modes[0]
        return answering.figures(person, mode, utc_now())


def _add_pictures(pages: Blueprint, pictures: Pictures) -> None:
    @pages.get("/pictures/crop/<int:project_id>/<instance>.jpg")
    def crop(project_id: int, instance: str) -> AnyResponse:
        _check_signature(pictures)
        return _picture(lambda: pictures.crop_file(project_id, instance))

    @pages.get("/pictures/context/<int:project_id>/<instance>.jpg")
    def context(project_id: int, instance: str) -> AnyResponse:
        _check_signature(pictures)
        return _picture(lambda: pictures.context_file(project_id, instance))

    @pages.get("/pictures/whole/<int:project_id>/<int:task_id>.jpg")
    def whole(project_id: int, task_id: int) -> AnyResponse:
        _check_signature(pictures)
        return _picture(lambda: pictures.whole_file(project_id, task_id))


def _check_signature(pictures: Pictures) -> None:
    sent = request.args
    if not pictures.is_open(request.path, sent.get("for", ""), sent.get("sig", ""), sent.get("exp", "")):
        raise Forbidden("this link is not signed by this server, has expired or was withdrawn")


def _picture(made: Any) -> Response:
    try:
        path: Path = made()
    except BadImage as error:
        raise NotFound(error.message) from error
    response: Response = send_file(path, mimetype="image/jpeg", max_age=_PICTURE_AGE_S)
    response.headers["Cache-Control"] = f"private, max-age={_PICTURE_AGE_S}"
    return response


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise BadInput(f"n is a number from 0 to {_MOST_CARDS}", field="n")
    return min(int(text), _MOST_CARDS)


def _revalidated(response: AnyResponse) -> AnyResponse:
    response.headers["Cache-Control"] = "no-cache"
    return response
