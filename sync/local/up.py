"""Label Studio, the ML backend and one worker, started together and stopped together.

Each is a process group of its own. So Ctrl-C reaches only the caller, which then stops exactly what it
started. ``data_dir/up.json`` says what runs. After a crash of the caller, the next start finds the left-over
processes in that file (number and start time must both match) and ends them first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.errors import GroundswellError, StudioError
from ml_backend.server_address import address_option
from ml_backend.tls import tls_context
from sync.local.backend_server import as_environment, backend_command
from sync.local.label_studio_server import Login, StudioServer, check_port
from sync.local.processes import is_running, start_time, stop_group, stop_left_over
from sync.local.secrets import BACKEND_USER, Secrets, load_secrets
from sync.settings import Settings

__all__ = ["Part", "Stack", "UpState", "read_state"]

_BACKEND_START_S = 120.0
_ASK_S = 120.0


@dataclass(frozen=True, slots=True)
class UpState:
    """What ``groundswell up`` wrote about itself; ``running`` says whether that process is still there."""

    pid: int
    studio_url: str
    backend_url: str
    files_root: str
    embedded: bool
    running: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def read_state(data_dir: Path) -> UpState | None:
    """What the last ``groundswell up`` of this data directory wrote, None if there was none."""
    try:
        raw = read_json(data_dir / "up.json")
    except FileNotFoundError:
        return None
    pid = int(raw["pid"])
    return UpState(
        pid=pid,
        studio_url=str(raw["studio_url"]),
        backend_url=str(raw["backend_url"]),
        files_root=str(raw["files_root"]),
        embedded=bool(raw["embedded"]),
        running=is_running(pid, _started(raw)),
    )


def _started(raw: dict[str, Any]) -> float | None:
    """The start time that was written down; None where an earlier version wrote it in another form."""
    value = raw["started"]
    return float(value) if isinstance(value, int | float) else None


class Stack:
    """The three processes.

    Parameters
    ----------
    settings : as given; ``self.settings`` is the same with addresses, token and secrets filled in
    studio_port, backend_port, host : where to listen
    files_root : folder below which Label Studio may serve local files
    studio_venv : virtual environment of the Label Studio server; see ``find_studio``
    studio_url, api_key : use this Label Studio instead of starting one
    with_worker : start a worker process (the demo without one runs rounds itself)
    report : called with one line about what happens
    """

    def __init__(
        self,
        settings: Settings,
        *,
        studio_port: int = 8080,
        backend_port: int = 9090,
        host: str = "127.0.0.1",
        files_root: Path | None = None,
        studio_venv: Path | None = None,
        studio_url: str = "",
        api_key: str = "",
        with_worker: bool = True,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        studio_url = address_option(studio_url, "studio_url")
        if bool(studio_url) != bool(api_key) and settings.studio_token_file is None:
            raise GroundswellError(
                "an existing Label Studio needs both its address and an API key",
                hint="Give --studio-url and --api-key together, or set GROUNDSWELL_STUDIO_TOKEN_FILE",
                field="studio_url" if not studio_url else "api_key",
            )
        self.data_dir = settings.data_dir.absolute()
        self.secrets: Secrets = load_secrets(self.data_dir)
        self.logs = self.data_dir / "logs"
        self.files_root = (files_root or Path.cwd()).absolute()
        self.host = host
        self.backend_port = backend_port
        self.embedded = not studio_url
        self._with_worker = with_worker
        self._report = report
        self._parts: list[Part] = []
        login = Login(self.secrets.email, self.secrets.password, self.secrets.token)
        self._server = StudioServer(
            self.data_dir / "label-studio",
            login,
            port=studio_port,
            host=host,
            files_root=self.files_root,
            venv=studio_venv,
            log=self.logs / "label-studio.log",
        )
        browser_host = "127.0.0.1" if host == "0.0.0.0" else host
        self.settings = settings.model_copy(
            update={
                "data_dir": self.data_dir,
                "studio_url": studio_url or self._server.url,
                "studio_token": SecretStr(api_key or self.secrets.token),
                "studio_token_file": self._token_file(settings, api_key),
                "backend_url": f"http://{browser_host}:{backend_port}"
                if "backend_url" not in settings.model_fields_set
                else settings.backend_url,
                "webhook_secret": settings.webhook_secret
                if settings.webhook_secret.get_secret_value()
                else SecretStr(self.secrets.webhook_secret),
                "signing_key": settings.signing_key
                if settings.signing_key.get_secret_value()
                else SecretStr(self.secrets.signing_key),
                "basic_auth_user": settings.basic_auth_user or BACKEND_USER,
                "basic_auth_pass": settings.basic_auth_pass
                if settings.basic_auth_pass.get_secret_value()
                else SecretStr(self.secrets.backend_password),
            }
        )

    def _token_file(self, settings: Settings, api_key: str) -> Path | None:
        """The file in which backend and worker look for a new API key when theirs is refused."""
        if self.embedded:
            return self.data_dir / "secrets.json"
        return None if api_key else settings.studio_token_file

    @property
    def url(self) -> str:
        """Where people open Label Studio."""
        return self.settings.shown_studio_url

    def start(self) -> None:
        """Start everything and wait until it answers. On any failure nothing is left running."""
        self._refuse_second()
        if self.embedded:
            check_port(self.host, self._server.port, "Label Studio")
        check_port(self.host, self.backend_port, "the ML backend")
        try:
            if self.embedded:
                first = not self._server.data_dir.exists()
                self._report("Label Studio starts" + (" (the first time takes about half a minute)" * first))
                self._server.start()
                assert self._server.process is not None
                self._add(Part("label-studio", self._server.process, self._server.log))
            self._report("the ML backend starts")
            self._start_backend()
            if self._with_worker:
                self._report("the worker starts")
                self._spawn("worker", [sys.executable, "-m", "sync.cli", "worker"])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End what was started, last first; nothing else."""
        for part in reversed(self._parts):
            stop_group(part.process)
        self._server.process = None
        if self._parts:
            self._parts.clear()
            (self.data_dir / "up.json").unlink(missing_ok=True)

    def watch(self, *, seconds: float | None = None) -> None:
        """Wait while everything runs. Raises GroundswellError naming the log when one part ends."""
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            for part in self._parts:
                code = part.process.poll()
                if code is not None:
                    raise GroundswellError(
                        f"{part.name} ended with code {code}: {_last_line(part.log)}", hint=f"See {part.log}"
                    )
            time.sleep(0.5)

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """Environment of backend and worker, see ``as_environment``."""
        return as_environment(self.settings)

    def running_on(self) -> list[str]:
        """What computes here and what would be better; asked in a process of its own, which loads torch."""
        command = [sys.executable, "-m", "sync.report.running_on"]
        try:
            asked = subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=_ASK_S, check=False
            )
        except subprocess.TimeoutExpired:
            return [f"what computes here could not be found out within {_ASK_S:.0f} s"]
        return asked.stdout.splitlines()

    def _start_backend(self) -> None:
        part = self._spawn("backend", backend_command(self.data_dir, self.host, self.backend_port))
        url = f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.backend_port}/health"
        end = time.monotonic() + _BACKEND_START_S
        while time.monotonic() < end:
            if part.process.poll() is not None:
                raise GroundswellError(
                    f"the ML backend did not start: {_last_line(part.log)}", hint=f"See {part.log}"
                )
            try:
                if httpx.get(url, timeout=2.0, verify=tls_context()).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise GroundswellError(
            f"the ML backend did not answer within {_BACKEND_START_S:.0f} s", hint=f"See {part.log}"
        )

    def _spawn(self, name: str, command: list[str]) -> Part:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        part = Part(name, process, log)
        self._add(part)
        return part

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        write_json(
            self.data_dir / "up.json",
            {
                "pid": os.getpid(),
                "started": start_time(os.getpid()),
                "studio_url": self.settings.studio_url,
                "backend_url": self.settings.backend_url,
                "files_root": str(self.files_root),
                "embedded": self.embedded,
                "parts": [
                    {
                        "name": p.name,
                        "pid": p.process.pid,
                        "started": start_time(p.process.pid),
                        "log": str(p.log),
                    }
                    for p in self._parts
                ],
            },
        )

    def _refuse_second(self) -> None:
        state = read_state(self.data_dir)
        if state is None:
            return
        if state.running and state.pid != os.getpid():
            raise GroundswellError(
                f"Groundswell already runs on {self.data_dir} (process {state.pid})",
                hint=f"It is at {state.studio_url}; stop it with Ctrl-C, or use another GROUNDSWELL_DATA_DIR",
                field="data_dir",
            )
        raw: dict[str, Any] = read_json(self.data_dir / "up.json")
        for part in raw.get("parts", []):
            if stop_left_over(int(part["pid"]), _started(part)):
                self._report(f"ended {part['name']}, left over from a run that was killed")
        (self.data_dir / "up.json").unlink(missing_ok=True)


def check_token(settings: Settings) -> str:
    """E-mail behind the token of these settings. Raises StudioError saying what is wrong with it."""
    from sync.studio.client import Studio

    studio = Studio(settings.studio_url, settings.current_studio_token, attempts=2)
    try:
        return studio.whoami()
    except StudioError as error:
        if error.status == 401:
            raise StudioError(
                f"Label Studio at {settings.studio_url} refuses the API key",
                hint="Take it from Account & Settings; legacy tokens must be enabled for the organisation",
                field="api_key",
                status=401,
            ) from error
        raise


def _last_line(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return "it printed nothing"
    return lines[-1][:300] if lines else "it printed nothing"
