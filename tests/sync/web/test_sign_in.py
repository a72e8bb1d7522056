"""Signing in: passwords of Label Studio, the cookie, limits, and where one is sent afterwards."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr

from ml_backend.errors import StudioError
from ml_backend.rates import network_of
from sync.settings import Settings
from sync.web.access.signing import Signed
from sync.web.app import create_web_app
from sync.web.sign_in.limits import COOKIE as KNOWN
from sync.web.sign_in.sessions import COOKIE, safe_path

GOOD = {"email": "ada@example.com", "password": "right"}
POST = {"X-Groundswell": "1"}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """E-mails that Label Studio was asked about; the password is "right"."""
    found: list[str] = []

    def check(url: str, email: str, password: str) -> bool:
        found.append(email)
        if email == "away@example.com":
            raise StudioError("Label Studio cannot be asked")
        return password == "right"

    monkeypatch.setattr("sync.web.sign_in.routes.check_password", check)
    return found


def client(tmp_path: Path, **options: Any) -> FlaskClient:
    values = {"data_dir": tmp_path, "studio_token": "t", "signing_key": SecretStr("a signing key of tests")}
    return create_web_app(Settings(**{**values, **options})).test_client()


def sign_in(client: FlaskClient, **changes: Any) -> Any:
    return client.post("/login", json={**GOOD, **changes}, headers=POST)


def test_the_right_password_opens_the_dashboard_and_the_way_out_closes_it(tmp_path: Path) -> None:
    browser = client(tmp_path)
    assert browser.get("/dashboard").status_code == 303
    reply = sign_in(browser, next="/dashboard/3")
    assert (reply.status_code, reply.json) == (200, {"next": "/dashboard/3"})
    page = browser.get("/dashboard")
    assert page.status_code == 200
    assert b"Sign out ada@example.com" in page.data
    assert browser.get("/login?next=/dashboard/3").headers["Location"] == "/dashboard/3"
    assert browser.post("/logout", json={}, headers=POST).status_code == 200
    assert browser.get("/dashboard").status_code == 303


def test_the_cookie_is_for_this_server_alone(tmp_path: Path) -> None:
    cookie = sign_in(client(tmp_path)).headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    flags = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/", "max-age=43200"} <= flags
    assert "secure" not in flags
    behind = client(tmp_path / "b", backend_url="https://gs.example.com")
    assert "Secure" in sign_in(behind).headers["Set-Cookie"]


def test_a_wrong_password_gives_no_cookie_and_says_so(tmp_path: Path) -> None:
    browser = client(tmp_path)
    reply = sign_in(browser, password="wrong")
    assert reply.status_code == 401
    assert reply.json["error"] == "wrong e-mail or password"
    assert "Set-Cookie" not in reply.headers
    assert "wrong" not in reply.data.decode().replace("wrong e-mail", "")
    assert sign_in(browser, email="away@example.com").status_code == 502
    assert browser.get("/dashboard").status_code == 303


def tries(client: FlaskClient, count: int, address: str, **changes: Any) -> list[int]:
    """Status codes of wrong passwords from one address."""
    place = {"environ_base": {"REMOTE_ADDR": address}}
    body = {**GOOD, "password": "wrong", **changes}
    return [client.post("/login", json=body, headers=POST, **place).status_code for _ in range(count)]


def enter_from(client: FlaskClient, address: str) -> int:
    """Status code of the right password from this address."""
    return client.post("/login", json=GOOD, headers=POST, environ_base={"REMOTE_ADDR": address}).status_code


def test_a_stranger_cannot_keep_an_admin_out(tmp_path: Path, asked: list[str]) -> None:
    browser = client(tmp_path)
    assert tries(browser, 12, "203.0.113.9")[-1] == 429
    assert enter_from(browser, "203.0.113.9") == 429, "the one who guesses waits"
    assert enter_from(browser.application.test_client(), "198.51.100.7") == 200, "the admin does not"
    assert tries(browser.application.test_client(), 40, "203.0.113.9", email="eve@example.com")[-1] == 429


def test_a_browser_that_signed_in_before_is_let_in_whoever_else_tries(tmp_path: Path) -> None:
    app = client(tmp_path).application
    mine, other = app.test_client(), app.test_client()
    assert enter_from(mine, "198.51.100.7") == 200
    assert mine.post("/logout", json={}, headers=POST).status_code == 200
    codes: list[int] = []
    for host in range(1, 40):  # somebody with many addresses
        codes += tries(other, 3, f"203.0.113.{host}")
    assert codes[-1] == 429, "together they are too many"
    assert enter_from(app.test_client(), "198.51.100.8") == 429
    assert enter_from(mine, "203.0.113.1") == 200, "also from an address of the stranger"
    assert enter_from(mine, "198.51.100.7") == 200
    codes = tries(mine, 12, "198.51.100.7")
    assert codes[-1] == 429, "passwords cannot be guessed there either"


def test_the_cookie_of_a_known_browser_is_of_no_use_for_another_e_mail(tmp_path: Path) -> None:
    app = client(tmp_path).application
    eve = app.test_client()
    assert sign_in(eve, email="eve@example.com").status_code == 200
    cookie = eve.get_cookie(KNOWN, path="/login")
    assert cookie is not None
    assert tries(app.test_client(), 12, "203.0.113.9")[-1] == 429
    for value in (cookie.value, "x.y.z", cookie.value[:-2] + "AA"):
        stranger = app.test_client()
        stranger.set_cookie(KNOWN, value, path="/login")
        assert tries(stranger, 1, "203.0.113.9") == [429], "not one try more"


def test_all_addresses_of_a_customer_count_as_one() -> None:
    assert (
        network_of("2001:db8:1:2::5") == network_of("2001:db8:1:2:ffff::1") != network_of("2001:db8:1:3::5")
    )
    assert network_of("203.0.113.9") == network_of("::ffff:203.0.113.9") != network_of("203.0.113.8")
    assert network_of("") == ""


def test_guessing_is_stopped_by_person_and_by_address(tmp_path: Path, asked: list[str]) -> None:
    browser = client(tmp_path)
    codes = [sign_in(browser, password=f"guess {i}").status_code for i in range(12)]
    assert codes[:5] == [401] * 5
    assert codes[-1] == 429
    assert len(asked) == codes.count(401), "Label Studio is not asked once there were too many"
    reply = sign_in(browser)
    assert reply.status_code == 429, "the right password does not help during the wait"
    assert int(reply.headers["Retry-After"]) > 0
    others = client(tmp_path)
    codes = [sign_in(others, email=f"p{i}@example.com", password="x").status_code for i in range(15)]
    assert codes[0] == 401
    assert codes[-1] == 429


@pytest.mark.parametrize(
    ("body", "headers", "kind"),
    [
        (GOOD, {}, "application/json"),
        (GOOD, POST, "text/plain"),
        ({"email": "ada@example.com"}, POST, "application/json"),
        ({**GOOD, "password": ["right"]}, POST, "application/json"),
        ({**GOOD, "email": ""}, POST, "application/json"),
        ({**GOOD, "password": "x" * 301}, POST, "application/json"),
    ],
)
def test_only_our_own_form_may_post(
    tmp_path: Path, asked: list[str], body: dict[str, Any], headers: dict[str, str], kind: str
) -> None:
    reply = client(tmp_path).post("/login", data=json.dumps(body), headers=headers, content_type=kind)
    assert reply.status_code == 400
    assert "Set-Cookie" not in reply.headers
    assert asked == []


def test_only_the_listed_admins_may_enter(tmp_path: Path) -> None:
    browser = client(tmp_path, admins=["Ada@example.com"])
    assert sign_in(browser, email="eve@example.com").status_code == 401
    assert sign_in(browser).status_code == 200
    assert browser.get("/dashboard").status_code == 200
    cookie = browser.get_cookie(COOKIE)
    assert cookie is not None
    narrowed = client(tmp_path, admins=["bob@example.com"])
    narrowed.set_cookie(COOKIE, cookie.value)
    assert narrowed.get("/dashboard").status_code == 303, "who is taken off the list is out at once"


def test_a_forged_an_old_and_a_foreign_cookie_open_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = client(tmp_path)
    sign_in(browser)
    cookie = browser.get_cookie(COOKIE)
    assert cookie is not None
    settings = Settings(data_dir=tmp_path, signing_key=SecretStr("a signing key of tests"))
    other = Settings(data_dir=tmp_path, signing_key=SecretStr("another signing key"))
    forged = [
        "",
        "x.y.z",
        cookie.value[:-2],
        Signed(other, "admin session").sign({"email": "ada@example.com"}),
        Signed(settings, "review session").sign({"email": "ada@example.com"}),
        Signed(settings, "admin session").sign(["ada@example.com"]),
        Signed(settings, "admin session").sign({"email": ""}),
    ]
    for value in forged:
        browser.set_cookie(COOKIE, value)
        assert browser.get("/dashboard").status_code == 303, value
    browser.set_cookie(COOKIE, cookie.value)
    assert browser.get("/dashboard").status_code == 200
    now = time.time()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + 12 * 3600 + 5, raising=True)
    assert browser.get("/dashboard").status_code == 303, "after twelve hours"


@pytest.mark.parametrize(
    "wanted",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "javascript:alert(1)",
        "http:evil.example",
        "evil.example",
        "",
        "///evil.example",
        "/\n/evil.example",
        "http://[",
    ],
)
def test_nobody_is_sent_to_another_server(tmp_path: Path, wanted: str) -> None:
    assert safe_path(wanted) == "/dashboard"
    assert sign_in(client(tmp_path), next=wanted).json == {"next": "/dashboard"}


def test_paths_of_this_server_are_kept(tmp_path: Path) -> None:
    assert safe_path("/dashboard/3?x=1") == "/dashboard/3?x=1"
    reply = client(tmp_path).get("/dashboard/3?x=1")
    assert reply.headers["Location"] == "/login?next=%2Fdashboard%2F3%3Fx%3D1"


def test_scripts_get_401_instead_of_a_form(tmp_path: Path) -> None:
    browser = client(tmp_path)
    for reply in (
        browser.get("/dashboard/live.json", headers={"Sec-Fetch-Dest": "empty"}),
        browser.get("/dashboard/live.json", headers={"Accept": "application/json"}),
        browser.post("/dashboard/1/round", json={}, headers=POST),
    ):
        assert reply.status_code == 401
        assert reply.json["field"] == "session"
    assert browser.get("/dashboard/files/dashboard.css").status_code == 200
    assert browser.get("/dashboard/nothing/here").status_code == 303
    sign_in(browser)
    assert browser.get("/dashboard/nothing/here").status_code == 404


def test_the_form_holds_what_people_typed_as_text(tmp_path: Path) -> None:
    page = (
        client(tmp_path).get("/login?next=/dashboard/%22%3E%3Cscript%3Ealert(1)%3C/script%3E").data.decode()
    )
    assert "<script>alert" not in page
    assert 'data-next="/dashboard/&#34;&gt;&lt;script&gt;' in page
