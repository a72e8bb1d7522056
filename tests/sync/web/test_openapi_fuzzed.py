"""The description of the routes is true: it names them all, and what they answer to any input is in it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.openapi import from_dict

from sync.web.openapi import API_FILE
from sync.web.sign_in.sessions import COOKIE
from tests.fuzzing import fuzz
from tests.sync.conftest import World
from tests.sync.web.review.place import POST, Place

DESCRIPTION = json.loads(API_FILE.read_text())
EXAMPLES = 5
CONFORMS = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
AUTHORIZATION = "Basic " + base64.b64encode(b"ls:s3cret").decode()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The app over a project with an open round, behind a password; requests are not slowed down."""
    world = World(
        tmp_path_factory.mktemp("api") / "world",
        8,
        basic_auth_user="ls",
        basic_auth_pass="s3cret",
        admins=["ada@example.com"],
        signing_key="0123456789abcdefghij" * 2,
        review_requests=10**6,
        review_address_requests=10**6,
    )
    yield Place(world)
    world.store.close()


@pytest.fixture(scope="module")
def cookies(played: Place) -> dict[str, str]:
    """Those of somebody who opened a link to the review page and signed in as an admin."""
    client = played.person().client
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sync.web.sign_in.routes.check_password", lambda url, email, password: True)
        known = {"email": "ada@example.com", "password": "x"}
        assert client.post("/login", json=known, headers=POST).status_code == 200
    found = {}
    for name, path in (("groundswell_review", "/review"), (COOKIE, "/")):
        cookie = client.get_cookie(name, path=path)
        assert cookie is not None
        found[name] = cookie.value
    return found


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[int]]:
    """Answers by status."""
    counts: Counter[int] = Counter()
    yield counts
    by_status = ", ".join(f"{status}: {n}" for status, n in sorted(counts.items()))
    print(f"\n{sum(counts.values())} requests to {len(OPERATIONS)} operations; {by_status}")


OPERATIONS = [found.ok() for found in from_dict(DESCRIPTION).get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=[one.label for one in OPERATIONS])
def test_what_routes_answer_is_in_the_description(
    played: Place,
    cookies: dict[str, str],
    operation: Any,
    counted: Counter[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everybody's credentials at once: any input gets an answer that the description allows, never a 500."""
    monkeypatch.setattr("sync.web.sign_in.routes.check_password", lambda url, email, password: email != "")
    checks = [CHECKS.get_one(name) for name in CONFORMS]
    operation.schema.app = played.app

    @given(
        case=st.one_of(
            operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
            operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        ),
        is_real=st.booleans(),
    )
    @fuzz(EXAMPLES)
    def answered(case: Any, is_real: bool) -> None:
        if is_real and "project_id" in case.path_parameters:
            case.path_parameters["project_id"] = played.world.project_id
        reply = case.call(headers={"Authorization": AUTHORIZATION}, cookies=cookies, app=played.app)
        counted[reply.status_code] += 1
        case.validate_response(reply, checks=checks)

    answered()
