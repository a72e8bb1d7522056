"""The description of the routes is true: it names them all, and says who may call them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from sync.web.openapi import API_FILE
from tests.sync.conftest import World
from tests.sync.web.review.place import POST, Place

DESCRIPTION = json.loads(API_FILE.read_text())
CATCH_ALL = {"/review/<path:anything>", "/dashboard/<path:anything>", "/dashboard/"}
"""routes that answer what has no route: 404, and the dashboard with a stroke at its end"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The app over a project, behind a password."""
    world = World(
        tmp_path_factory.mktemp("api") / "world",
        2,
        basic_auth_user="ls",
        basic_auth_pass="s3cret",
        admins=["ada@example.com"],
        signing_key="0123456789abcdefghij" * 2,
    )
    yield Place(world)
    world.store.close()


def described() -> set[tuple[str, str]]:
    return {(path, method.upper()) for path, item in DESCRIPTION["paths"].items() for method in item}


def test_every_route_is_described_and_no_other(played: Place) -> None:
    there = {
        (re.sub(r"<(?:[a-z]+:)?([a-z_]+)>", r"{\1}", rule.rule), method)
        for rule in played.app.url_map.iter_rules()
        if rule.rule not in CATCH_ALL
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert there == described()


def test_the_description_is_served_to_who_knows_the_backend_s_password(played: Place) -> None:
    client = played.app.test_client()
    assert client.get("/openapi.json").status_code == 401
    reply = client.get("/openapi.json", auth=("ls", "s3cret"))
    assert (reply.status_code, reply.json) == (200, DESCRIPTION)


def test_who_must_sign_in_is_told_apart(played: Place) -> None:
    """What the description calls open is open, and everything else refuses a stranger."""
    stranger = played.app.test_client()
    for path, item in DESCRIPTION["paths"].items():
        for method, operation in item.items():
            address = re.sub(r"{(\w+_)?id}", "1", path).replace("{", "").replace("}", "")
            reply = stranger.open(
                address, method=method.upper(), json=None if method == "get" else {}, headers=POST
            )
            refused = reply.status_code == 401 or (
                reply.status_code == 303 and reply.location.startswith("/login?")
            )
            assert refused == bool(operation["security"]), (method, path, reply.status_code)
