"""A review server in memory, for tests of the page alone: it can be slow, away, or withdraw the link.

It speaks the API of ``sync.web.review`` and serves the page's own files, with the same policy of content.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask, Response, jsonify, request, send_from_directory
from PIL import Image
from werkzeug.serving import make_server

import sync.web
from ml_backend.images.crops import render_crop
from ml_backend.masks.rle import encode_mask
from sync.lab.sample_set import LABELS, draw_picture
from sync.review.gold_masks import half, shifted

__all__ = ["StandIn", "class_card", "pictures", "serve", "sheet_card", "single_card"]

STATIC = Path(sync.web.__file__).parent / "static" / "review"
Card = dict[str, Any]


@cache
def pictures() -> dict[str, bytes]:
    """JPEGs by name: ``<label>-good-<i>``, ``<label>-bad-<i>``, ``context-<label>-good-<i>``, ``whole-i``."""
    found: dict[str, bytes] = {}
    counts = dict.fromkeys(LABELS, 0)
    for seed in range(3):
        drawn = draw_picture(np.random.default_rng([7, seed]), (300, 400))
        buffer = BytesIO()
        Image.fromarray(drawn.rgb).save(buffer, "JPEG", quality=88)
        found[f"whole-{seed}"] = buffer.getvalue()
        for label, mask in zip((LABELS[i] for i in drawn.label), drawn.mask, strict=True):
            rle = encode_mask(mask)
            i = counts[label]
            counts[label] += 1
            found[f"{label}-good-{i}"] = render_crop(drawn.rgb, rle)
            found[f"context-{label}-good-{i}"] = render_crop(drawn.rgb, rle, context=1.5)
            wrong = half(rle) if i % 2 else shifted(rle)
            if wrong is not None:
                found[f"{label}-bad-{i}"] = render_crop(drawn.rgb, wrong)
    return found


def _names(label: str, kind: str) -> list[str]:
    return sorted(name for name in pictures() if name.startswith(f"{label}-{kind}-"))


def _address(name: str, at: object) -> str:
    return f"/review/picture/{name}.jpg?card={at}"  # its own, so that no cache helps


def single_card(at: int, label: str = "washer", **more: Any) -> Card:
    """Card number ``at``: is this a good one?"""
    names = _names(label, "good")
    name = names[at % len(names)]
    return {
        "id": f"s{at}",
        "form": "single",
        "label": label,
        "question": f"Is the outlined object a good {label}?",
        "crop": _address(name, at),
        "context": _address(f"context-{name}", at),
        "examples": {
            "good": [_address(n, "example") for n in names[:3]],
            "bad": [_address(n, "example") for n in _names(label, "bad")[:3]],
            "bad_captions": ["shifted", "a part", "shifted"],
        },
        **more,
    }


def sheet_card(at: int, n: int = 9, label: str = "washer") -> Card:
    """A contact sheet of ``n`` pictures."""
    names = _names(label, "good")
    items = [
        {
            "crop": _address(names[i % len(names)], f"{at}.{i}"),
            "context": _address(f"context-{names[i % len(names)]}", f"{at}.{i}"),
            "label": label,
        }
        for i in range(n)
    ]
    question = f"Tick every picture that is NOT a good {label}."
    return {**single_card(at, label), "id": f"t{at}", "form": "sheet", "question": question, "items": items}


def class_card(at: int, choices: Sequence[str] = LABELS, *, exclusive: bool = True) -> Card:
    """A picture to sort; the model suggests the first class."""
    return {
        "id": f"c{at}",
        "form": "class",
        "label": "",
        "question": "What does the picture show?"
        if exclusive
        else "What does the picture show? (all that fit)",
        "image": _address(f"whole-{at % 3}", at),
        "choices": [{"value": name, "key": name[0]} for name in choices],
        "exclusive": exclusive,
        "suggested": [choices[0]],
    }


@dataclass
class StandIn:
    """State of the server; tests change it while the page is open."""

    streams: dict[str, list[Card]]
    mode: Mapping[str, str] = field(default_factory=dict)
    auto_s: float | None = 3.0
    show: bool = True
    door: threading.Event = field(default_factory=threading.Event)
    """while it is not set, the API answers nothing"""
    away: bool = False
    link: str = ""
    """what is wrong with the link: "", "expired" or "revoked" """
    gold: dict[str, str] = field(default_factory=dict)
    """cards whose right answer is known, and told"""
    refuse: set[str] = field(default_factory=set)
    answers: list[dict[str, Any]] = field(default_factory=list)
    """in the order of their arrival, without those taken back"""
    uuids: list[str] = field(default_factory=list)
    """every uuid that came, also again"""
    person: str = "p1"
    shown: list[str] = field(default_factory=list)
    """cards that were said to be on the screen, in order"""
    given_back: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """cards that somebody else has"""
    orders: tuple[str, ...] = ()
    """orders that every stream offers; "surest" turns the cards round"""

    def __post_init__(self) -> None:
        self.door.set()

    def values(self) -> list[Any]:
        """What was said, in order."""
        return [a.get("value", a.get("wrong", a.get("choices"))) for a in self.answers]

    def said(self, count: int) -> list[Any]:
        """The same, when so many answers have arrived: they leave after the next card is painted."""
        end = time.monotonic() + 30.0
        while len(self.answers) < count and time.monotonic() < end:
            time.sleep(0.02)
        return self.values()

    def counts(self, stream: str) -> dict[str, int]:
        """As the API tells them."""
        ids = {card["id"] for card in self.streams[stream]}
        answered = sum(a["card"] in ids for a in self.answers)
        return {"left": len(ids) - answered, "answered": answered}


def _stream_of(state: StandIn, card: str) -> str:
    return next(name for name, cards in state.streams.items() if any(c["id"] == card for c in cards))


def _app(state: StandIn) -> Flask:
    app = Flask("stand-in", static_folder=None)
    lock = threading.Lock()

    @app.before_request
    def condition() -> Response | tuple[Response, int] | None:
        if "/review/api/" not in request.path:
            return None
        state.door.wait(60)
        if state.away:
            return jsonify(error="Label Studio is away", field="", hint=""), 503
        if state.link:
            said = f"Your link was {state.link}."
            return jsonify(error=said, field=f"link.{state.link}", hint="Ask Ada for a new one."), 401
        if request.headers.get("X-Groundswell-Person", state.person) != state.person:
            return jsonify(error="This page is of somebody else.", field="person", hint="Reload it."), 409
        return None

    @app.after_request
    def policy(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    @app.get("/review/")
    def page() -> Response:
        return send_from_directory(STATIC, "index.html")

    @app.get("/review/static/<path:name>")
    def static(name: str) -> Response:
        return send_from_directory(STATIC, name)

    @app.get("/review/picture/<name>.jpg")
    def picture(name: str) -> Response:
        found = pictures().get(name)
        if found is None:
            return Response("no such picture", 404)
        return Response(found, mimetype="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/review/api/me")
    def me() -> dict[str, Any]:
        return {
            "id": state.person,
            "name": "Ada",
            "streams": [
                {
                    "id": name,
                    "title": name,
                    "mode": state.mode.get(name, "questions"),
                    "labels": sorted({c["label"] for c in cards}),
                    "orders": list(state.orders),
                    **state.counts(name),
                }
                for name, cards in state.streams.items()
            ],
            "settings": {
                "auto_s": state.auto_s,
                "auto_answer": "no",
                "show_speed": state.show,
                "show_gold": state.show,
            },
        }

    @app.get("/review/api/cards")
    def cards() -> dict[str, Any]:
        stream = request.args["stream"]
        have = request.args.get("have", "").split(",")
        state.shown.append(request.args["shown"])
        gone = {*have, *(a["card"] for a in state.answers), *state.lost}
        cards = state.streams[stream][:: -1 if request.args["order"] == "surest" else 1]
        open_cards = [c for c in cards if c["id"] not in gone]
        lost = sorted(state.lost.intersection(have))
        return {"cards": open_cards[: int(request.args["n"])], "lost": lost, **state.counts(stream)}

    @app.post("/review/api/give-back")
    def give_back() -> dict[str, Any]:
        assert request.headers["X-Groundswell"] == "1"
        state.given_back += request.get_json()["cards"]
        return {"given_back": len(request.get_json()["cards"])}

    @app.post("/review/api/answers")
    def answers() -> dict[str, Any]:
        assert request.headers["X-Groundswell"] == "1"
        stored, refused, feedback = [], [], []
        with lock:
            body = request.get_json()["answers"]
            state.shown.append(request.get_json()["shown"])
            for answer in body:
                known = answer["uuid"] in state.uuids
                state.uuids.append(answer["uuid"])
                if answer["card"] in state.refuse:
                    told = {
                        "uuid": answer["uuid"],
                        "error": "somebody else was faster",
                        "hint": "Nothing to do.",
                    }
                    refused.append(told)
                    continue
                stored.append(answer["uuid"])
                if known:
                    continue
                state.answers.append(answer)
                if answer["card"] in state.gold:
                    right = state.gold[answer["card"]] == answer.get("value")
                    feedback.append({"uuid": answer["uuid"], "right": right})
            stream = _stream_of(state, body[0]["card"])
            lost = sorted(state.lost.intersection(state.shown[-1:]))
            said = {"stored": stored, "refused": refused, "feedback": feedback, "lost": lost}
            return said | state.counts(stream)

    @app.post("/review/api/undo")
    def undo() -> dict[str, Any] | tuple[Response, int]:
        card = request.get_json()["card"]
        with lock:
            found = next((a for a in state.answers[-10:] if a["card"] == card), None)
            if found is None:
                return jsonify(error="it is too old", field="card", hint=""), 409
            state.answers.remove(found)
        stream = _stream_of(state, card)
        data = next(c for c in state.streams[stream] if c["id"] == card)
        before = {k: found[k] for k in ("value", "wrong", "choices") if k in found}
        return {"card": data, "before": before, **state.counts(stream)}

    @app.get("/review/api/stats")
    def stats() -> dict[str, Any]:
        n = len(state.answers)
        counts: dict[str, int] = {}
        for answer in state.answers:
            for choice in answer.get("choices", []):
                counts[choice] = counts.get(choice, 0) + 1
        classes = [{"value": v, "count": c} for v, c in sorted(counts.items())]
        return {
            "answered_today": n,
            "per_minute": 31.0 if state.show else None,
            "median_s": 1.2 if state.show else None,
            "gold": {"right": 3, "asked": 4} if state.show and state.gold else None,
            "queue": 0,
            "classes": classes,
            "accuracy": {
                "own": {"right": n, "of": n + 1, "low": 0.51, "high": 0.97} if counts else None,
                "model": {"share": 0.874, "low": 0.69, "high": 0.98, "pictures": 16},
            },
            "agreement": {"same": counts.get(LABELS[0], 0), "of": n} if counts else None,
        }

    return app


@contextmanager
def serve(state: StandIn) -> Iterator[str]:
    """Serve on a free port; gives the address of the page."""
    pictures()  # drawn once, here: the server's threads would all draw them
    server = make_server("127.0.0.1", 0, _app(state), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/review/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
