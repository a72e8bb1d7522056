"""No secret leaves: a loop and everything around it, with marked secrets, and a search for the marks.

Nothing here knows where a leak would be. It runs what people run, well and badly, and reads what came out:
log lines in both formats, what commands print, pages, reports, reprs, rows of the store, a backup's list.
"""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from typer.testing import CliRunner

from ml_backend.errors import GroundswellError
from ml_backend.logs import set_up_logging
from sync.backup.archive import check_archive
from sync.cli import build_app
from sync.installation import Installation
from sync.local.secrets import load_secrets
from sync.local.up import Stack
from sync.settings import Settings, load_settings
from sync.store.database import Store
from sync.store.tables import ProjectRecord
from sync.studio.client import Studio
from sync.studio.users import check_password
from sync.web.app import create_web_app
from sync.worker.loop import Worker
from tests.conftest import free_port
from tests.sync.conftest import World

MakeWorld = Callable[..., World]
POST = {"X-Groundswell": "1"}
SECRETS = {
    "studio_token": "mark-of-the-studio-token",
    "review_token": "mark-of-the-review-token",
    "webhook_secret": "mark-of-the-webhook-secret",
    "signing_key": "mark-of-the-signing-key",
    "old_signing_keys": "mark-of-an-old-signing-key",
    "basic_auth_pass": "mark-of-the-backend-password",
    "database_password": "mark-of-the-database-password",
}
SIGNATURE, HOST_PASSWORD = "mark-of-an-image-signature", "mark-of-an-image-password"
TYPED = "mark-of-a-typed-password"
MARKS = (*SECRETS.values(), SIGNATURE, HOST_PASSWORD, TYPED)
QUERY = f"X-Amz-Signature={SIGNATURE}&X-Amz-Date=today"


def leaks(said: str) -> list[str]:
    """The marks in a text, with what stands around them."""
    found = []
    for mark in MARKS:
        at = said.find(mark)
        if at >= 0:
            found.append(said[max(0, at - 120) : at + len(mark) + 20])
    return found


class Parrot(BaseHTTPRequestHandler):
    """A server that answers every request with an error in which it repeats all it was told."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        told = json.dumps({"detail": f"{self.headers.get('Authorization')} {body} {self.path}"}).encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def parrot() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Everything that would be written to standard error, from the most talkative level on."""
    root, httpx_level = logging.getLogger(), logging.getLogger("httpx").level
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    options = {**SECRETS, "log_format": request.param, "log_level": "DEBUG"}
    set_up_logging(Settings(**options), stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("httpx").setLevel(httpx_level)


def rows_of(store: Store, *, without: frozenset[str] = frozenset()) -> str:
    """All rows of all tables, but for the named columns."""
    with store.read() as session:
        tables = session.scalars(text("SELECT name FROM sqlite_master WHERE type='table'")).all()
        said = []
        for table in tables:
            for row in session.execute(text(f'SELECT * FROM "{table}"')).mappings():
                said.append(str({name: value for name, value in row.items() if name not in without}))
    return "\n".join(said)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A project with two pictures behind signed addresses, one of them on a host that refuses."""
    options = {**SECRETS, "basic_auth_user": "ls", "admins": ["ada@example.com"]}
    made = make_world(
        8, name="marked", **options, database_url=""
    )  # SQLite: the password of another would be wrong
    for address in (
        f"https://bucket.invalid/a.png?{QUERY}",
        f"http://me:{HOST_PASSWORD}@127.0.0.1:{free_port()}/b.png?{QUERY}",
    ):
        made.studio.import_tasks(made.project_id, [{"image": address}])
    made.label(*range(5))
    return made


def commands(monkeypatch: pytest.MonkeyPatch, world: World, studio: Any) -> Callable[..., str]:
    """Run a command on this world; gives what it printed, tracebacks included."""
    monkeypatch.setattr(
        "sync.installation.open_installation",
        lambda *_, **__: Installation(world.settings, world.store, studio, None),
    )
    monkeypatch.setattr("sync.installation.open_store", lambda *_, **__: (world.settings, world.store))
    for place in ("sync.installation", "sync.local.effective_settings"):
        monkeypatch.setattr(f"{place}.effective_settings", lambda *_, **__: world.settings)
    # a command that sets logs up must not take away the stream in which the test reads them
    monkeypatch.setattr("ml_backend.logs.set_up_logging", lambda *_, **__: None)
    app = build_app()

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        return f"{done.output}\n{done.exception!r}\n{done.exc_info and done.exc_info[1]}"

    return run


def test_a_loop_with_its_commands_and_pages_tells_no_secret(
    world: World, log: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = commands(monkeypatch, world, world.studio)
    number, report = str(world.project_id), tmp_path / "report.html"
    said = [run("worker", "--once", "--json"), run("round", "--project", number, "--json")]
    world.answer_all()
    said += [
        run("worker", "--once"),
        run("status"),
        run("status", "--json"),
        run("project", "show", number),
        run("history", number),
        run("report", "--project", number, "--out", str(report)),
        run("report", "--all", "--json"),
        run("invite", "create", "--project", number, "--name", "Ana"),
        run("export", "--project", number, "--out", str(tmp_path / "out.json")),
        run("backup", "--out", str(tmp_path / "backup.tar.gz")),
        report.read_text(),
    ]
    manifest = check_archive(tmp_path / "backup.tar.gz").manifest
    said += [manifest.model_dump_json()]
    assert '"pushed"' in said[0], "the loop ran"

    monkeypatch.setattr("sync.web.sign_in.routes.check_password", lambda url, mail, password: mail[0] == "a")
    app = create_web_app(world.settings, store=world.store, studio=world.studio)
    pages = app.test_client()
    for login in (
        {"email": "eve@example.com", "password": TYPED},
        {"email": "ada@example.com", "password": TYPED},
    ):
        said += [pages.post("/login", json=login, headers=POST).text]
    for path in (
        "/dashboard",
        f"/dashboard/{number}",
        "/dashboard/live.json",
        f"/dashboard/{number}/live.json",
    ):
        said += [pages.get(path).text]
    said += [pages.get("/metrics", auth=("ls", TYPED)).text, pages.get("/metrics").text]
    said += [pages.get("/metrics", auth=("ls", SECRETS["basic_auth_pass"])).text]
    broken = pages.post("/webhook", data=b"{", headers={"X-Groundswell-Secret": SECRETS["webhook_secret"]})
    said += [broken.text, str(broken.status)]
    with world.store.read() as session:
        key = session.get_one(ProjectRecord, world.project_id).key
    for address in (f"https://bucket.invalid/c.png?{QUERY}", f"ftp://me:{HOST_PASSWORD}@h/x.png?{QUERY}"):
        body = {
            "tasks": [{"id": 1, "data": {"image": address}}],
            "project": key,
            "label_config": world.studio.project(world.project_id).label_config,
        }
        answer = pages.post("/predict", json=body, auth=("ls", SECRETS["basic_auth_pass"]))
        said += [answer.text, str(answer.status)]
        assert answer.status_code in (200, 400)

    assert leaks("\n".join(said)) == []
    assert log.getvalue().count("\n") > 3
    assert leaks(log.getvalue()) == []
    # the addresses of pictures are data of Label Studio; that they are kept is what these columns are for
    assert leaks(rows_of(world.store, without=frozenset({"data", "image"}))) == []
    assert "bucket.invalid" in rows_of(world.store, without=frozenset({"data", "image"})), (
        "errors name the host"
    )


def test_a_label_studio_that_repeats_what_it_was_told_makes_us_tell_nothing(
    world: World, log: io.StringIO, parrot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = world.settings.model_copy(update={"studio_url": parrot})
    world.settings = settings
    studio = Studio(parrot, settings.current_studio_token, attempts=1)
    run = commands(monkeypatch, world, studio)
    number = str(world.project_id)
    Worker(settings, world.store, studio).look(world.project_id)
    said = [
        run("worker", "--once"),
        run("init", "--title", "Another", "--labels", "cell"),
        run("rebuild"),
        run("doctor"),
        run("doctor", "--json"),
        run("status", "--json"),
        run("round", "--project", number),
    ]
    for call in (
        lambda: studio.ensure_webhook(
            world.project_id, "http://b.test/webhook", secret=SECRETS["webhook_secret"]
        ),
        lambda: studio.connect_backend(
            world.project_id, "http://b.test", title="t", basic_auth=("ls", SECRETS["basic_auth_pass"])
        ),
        lambda: check_password(parrot, "ada@example.com", TYPED),
        lambda: studio.as_user("ada@example.com", TYPED),
        lambda: studio._http.call("POST", "/x", json={"basic_auth_pass": SECRETS["basic_auth_pass"]}),
        lambda: studio._http.call("POST", "/x", json={"headers": {"X-Secret": SECRETS["webhook_secret"]}}),
    ):
        try:
            call()  # type: ignore[no-untyped-call]
        except GroundswellError as error:
            said.append(f"{error!r} {error}")
    assert "403" in "\n".join(said), "the server was asked"
    assert leaks("\n".join(said)) == []
    assert leaks(log.getvalue()) == []
    assert "403" in rows_of(world.store), "the error of the look is kept"
    assert leaks(rows_of(world.store, without=frozenset({"data", "image"}))) == []


def test_what_is_printed_of_an_object_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"postgresql+psycopg://me:{SECRETS['database_password']}@127.0.0.1:{free_port()}/db"
    settings = Settings(data_dir=tmp_path, **SECRETS, database_url=url)
    studio = Studio("http://studio.test", SECRETS["studio_token"])
    made = load_secrets(tmp_path)
    stack = Stack(settings)
    said = [
        f"{thing!r} {thing!s}" for thing in (settings, studio, studio._http, made, stack, stack._server.login)
    ]
    said += [str(settings.model_dump()), settings.model_dump_json()]
    try:
        Store(settings.database())
    except GroundswellError as error:
        said.append(f"{error!r} {error}")
    for wrong in ({"poll_s": -1}, {"preset": 3}, {"crowd": "perhaps"}, {"database_url": 3}):
        with pytest.raises(ValidationError) as refused:
            Settings(**{**SECRETS, **wrong})
        said.append(str(refused.value))
    monkeypatch.setenv("GROUNDSWELL_BASIC_AUTH_PASS", SECRETS["basic_auth_pass"])
    monkeypatch.setenv("GROUNDSWELL_POLL_S", "soon")
    with pytest.raises(GroundswellError) as unclear:
        load_settings()
    said.append(f"{unclear.value!r}")
    made_here = (made.password, made.token, made.signing_key, made.webhook_secret, made.backend_password)
    assert leaks("\n".join(said)) == []
    assert [secret for secret in made_here if secret in "\n".join(said)] == []
