"""Start and stop an embedded Label Studio that has a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from ml_backend.errors import GroundswellError, StudioError
from ml_backend.tls import tls_context
from sync.local.processes import stop_group

__all__ = ["Login", "StudioServer", "check_port", "find_studio", "studio_env"]

_FIRST_START_S = 300.0
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "SSL_CERT_FILE", "TZ")


@dataclass(frozen=True, slots=True)
class Login:
    """The administrator made at the first start of a data directory."""

    email: str
    password: str
    token: str

    def __repr__(self) -> str:
        return f"Login({self.email!r})"


def find_studio(venv: Path | None = None) -> Path:
    """Path of the ``label-studio`` program.

    Looks in ``venv``, then in $GROUNDSWELL_STUDIO_VENV, then in ``.venv-studio`` of the working directory and
    beside this package, then on PATH. Raises GroundswellError when it is nowhere.
    """
    places = [venv] if venv is not None else []
    if not places and os.environ.get("GROUNDSWELL_STUDIO_VENV"):
        places.append(Path(os.environ["GROUNDSWELL_STUDIO_VENV"]))
    if not places:
        places = [Path.cwd() / ".venv-studio", Path(__file__).resolve().parents[2] / ".venv-studio"]
    for place in places:
        program = place / "bin" / "label-studio"
        if program.exists():
            return program.absolute()
    found = None if venv is not None else shutil.which("label-studio")
    if found:
        return Path(found)
    raise GroundswellError(
        f"no Label Studio server in {', '.join(str(place) for place in places)}",
        hint="Run `make install`, or set GROUNDSWELL_STUDIO_VENV to a virtual environment with "
        "label-studio, or use a running one with --studio-url and --api-key",
        field="studio_venv",
    )


def check_port(host: str, port: int, what: str) -> None:
    """Raise GroundswellError when the port is taken: Label Studio would silently move to the next one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise GroundswellError(
                f"port {port} on {host} is taken, {what} cannot use it: {error.strerror}",
                hint="Stop the other program or choose another port",
                field="port",
            ) from error


def studio_env(data_dir: Path, login: Login, *, files_root: Path) -> dict[str, str]:
    """Environment of a server that needs no input, contacts no outside server, may reach a local backend."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return env | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir),
        "LABEL_STUDIO_USERNAME": login.email,
        "LABEL_STUDIO_PASSWORD": login.password,
        "LABEL_STUDIO_USER_TOKEN": login.token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files_root),
        # no contact with outside servers
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "False",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        # without these two, Label Studio refuses a backend or webhook with a private address
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        # seconds. Somebody opens a task and leaves: by default nobody else gets it for 24 hours
        "TASK_LOCK_TTL": "3600",
    }


class StudioServer:
    """One embedded Label Studio.

    Parameters
    ----------
    data_dir : its database and uploads; made at the first start, found again at the next
    login : administrator, made at the first start
    files_root : folder below which local files may be served
    venv : virtual environment with label-studio; see ``find_studio``
    log : file that receives what the server prints
    """

    def __init__(
        self,
        data_dir: Path,
        login: Login,
        *,
        port: int = 8080,
        host: str = "127.0.0.1",
        files_root: Path = Path("/"),
        venv: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.login = login
        self.host = host
        self.port = port
        self.files_root = files_root.absolute()
        self.log = log or self.data_dir / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._venv = venv

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    def start(self, *, timeout_s: float = _FIRST_START_S, extra_env: Mapping[str, str] | None = None) -> None:
        """Start it and wait until it answers. Raises GroundswellError (port, program) or StudioError."""
        program = find_studio(self._venv)
        check_port(self.host, self.port, "Label Studio")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        env = studio_env(self.data_dir, self.login, files_root=self.files_root) | dict(extra_env or {})
        command = [
            str(program),
            "start",
            "--no-browser",
            "--port",
            str(self.port),
            "--internal-host",
            self.host,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=env,
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait(timeout_s)
        except BaseException:
            self.stop()
            raise

    def _wait(self, timeout_s: float) -> None:
        assert self.process is not None
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise StudioError(
                    f"Label Studio ended with code {self.process.returncode} at start: {self._last_words()}",
                    hint=f"See {self.log}",
                )
            try:
                if httpx.get(f"{self.url}/health", timeout=2.0, verify=tls_context()).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise StudioError(f"Label Studio did not answer within {timeout_s:.0f} s", hint=f"See {self.log}")

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it printed nothing"

    def stop(self) -> None:
        """End the server and everything it started; nothing else."""
        if self.process is not None:
            stop_group(self.process)
            self.process = None

    def __enter__(self) -> StudioServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
