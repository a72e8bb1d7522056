"""A throw-away Postgres cluster for tests, from the programs of the distribution."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

__all__ = ["PostgresServer", "find_postgres"]

_USER = "groundswell"
_PASSWORD = "a test's password"


def find_postgres() -> Path | None:
    """Folder of ``initdb`` and ``postgres``: where Debian puts them (newest version), or on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))
    on_path = shutil.which("initdb")
    for folder in (*reversed(debian), *([Path(on_path).parent] if on_path else [])):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


class PostgresServer:
    """A cluster in a temporary folder, listening on 127.0.0.1 while the context is open.

    Postgres refuses to run as root: then its processes run as the ``postgres`` user of the package.
    Nothing is synchronised to disk and nothing survives.
    """

    def __init__(self, programs: Path, port: int) -> None:
        self._programs = programs
        self.port = port
        self._folder = Path(tempfile.mkdtemp(prefix="groundswell-postgres-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresServer:
        cluster = self._folder / "cluster"
        secret = self._folder / "password"
        secret.write_text(_PASSWORD)
        if self._as:
            os.chown(secret, self._as["user"], self._as["group"])
        subprocess.run(
            [
                self._programs / "initdb", "--pgdata", cluster, "--username", _USER, "--pwfile", secret,
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
            ],
            check=True, capture_output=True, cwd=self._folder, **self._as,
        )  # fmt: skip
        self.start()
        return self

    def start(self) -> None:
        """Start the server of the cluster that is there, and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "cluster", *flags],
                stdout=log, stderr=log, cwd=self._folder, start_new_session=True, **self._as,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise

    def kill(self) -> None:
        """End the server and the processes of its connections at once, as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """Number of the server's process and of its process group."""
        assert self._process is not None
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast": clients are cut off (SIGTERM waits for them)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self) -> None:
        until = time.monotonic() + 60
        assert self._process is not None
        while True:
            try:
                psycopg.connect(self._address("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                log = (self._folder / "log").read_text(errors="replace")
                assert self._process.poll() is None, log
                assert time.monotonic() < until, log
                time.sleep(0.05)

    def new_database(self, *, encoding: str = "UTF8") -> str:
        """SQLAlchemy URL of a fresh, empty database."""
        name = f"t{uuid.uuid4().hex[:12]}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE {}").format(
            sql.Identifier(name), encoding, "C.UTF-8" if encoding == "UTF8" else "C"
        )
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(create)
        return self._address(name).replace("postgresql:", "postgresql+psycopg:", 1)

    def _address(self, database: str) -> str:
        password = _PASSWORD.replace(" ", "%20").replace("'", "%27")
        return f"postgresql://{_USER}:{password}@127.0.0.1:{self.port}/{database}"
