"""A whole installation that can be harmed: Label Studio, database, backend, workers, and a wire between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from sync.local.backend_server import as_environment
from sync.local.label_studio_server import StudioServer, find_studio
from sync.settings import Settings
from sync.studio.client import Studio
from tests.chaos.wire import Wire
from tests.conftest import LOGIN, _migrated, free_port
from tests.guard import ends_with_us
from tests.postgres import PostgresServer
from tests.studio.test_review_page_real import Backend
from tests.sync.conftest import World

__all__ = ["TESTS", "Nursery", "Site", "make_world", "open_site", "servers"]

TESTS = Path(__file__).parents[1]
N_PICTURES = 20
_SAID_CHARACTERS = 4000


class Nursery:
    """Starts and kills workers; see ``worker_nursery``."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._logs = logs
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker_nursery", str(logs)],
            env=environment
            | {"PYTHONPATH": f"{TESTS / 'sync' / 'kill_site'}:{TESTS.parent}", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self) -> int:
        """A new worker; its process number."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("one more\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def said(self, pid: int) -> str:
        """The end of what a worker said."""
        text = (self._logs / f"worker-{pid}.log").read_text(errors="replace")
        return text[-_SAID_CHARACTERS:]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Site:
    """What runs, and how each part of it is killed and started again."""

    def __init__(
        self,
        folder: Path,
        server: StudioServer,
        postgres: PostgresServer,
        wire: Wire,
        world: World,
        small_disk: bool,
    ) -> None:
        self.folder = folder
        self.small_disk = small_disk
        self.server = server
        self.postgres = postgres
        self.wire = wire
        self.world = world
        self.studio = Studio(server.url, LOGIN.token, attempts=8)
        behind = world.settings.model_copy(update={"studio_url": wire.url})
        self.backend = Backend(behind, folder / "backend.log")
        self.nursery = Nursery(worker_environment(behind), folder)
        self.workers: list[int] = []
        self.ended_by_themselves: list[str] = []
        self.studio.ensure_webhook(
            world.project_id,
            f"{world.settings.backend_url}/webhook",
            secret=world.settings.webhook_secret.get_secret_value(),
        )

    def start_workers(self, count: int) -> None:
        self.workers += [self.nursery.start() for _ in range(count)]

    def replace_ended(self) -> None:
        """Start a worker for each that ended although nobody killed it, as a service manager does."""
        for number, pid in enumerate(self.workers):
            if not _is_alive(pid):
                self.ended_by_themselves.append(self.nursery.said(pid))
                self.workers[number] = self.nursery.start()

    def kill_worker(self, number: int) -> None:
        """SIGKILL, and a new one."""
        _kill(self.workers[number])
        self.workers[number] = self.nursery.start()

    def kill_training(self) -> bool:
        """SIGKILL for a training that runs; False when none does."""
        for worker in self.workers:
            try:
                children = psutil.Process(worker).children()
            except psutil.NoSuchProcess:
                continue
            for child in children:
                _kill(child.pid)
                return True
        return False

    def kill_backend(self) -> None:
        self.backend.kill()
        self.backend.start()

    def kill_studio(self) -> None:
        """SIGKILL for Label Studio, which then starts again over the same data."""
        assert self.server.process is not None
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()
        self.server.start()

    def kill_postgres(self) -> None:
        self.postgres.kill()
        self.postgres.start()

    def fill_disk(self, seconds: float) -> bool:
        """No byte is free where the data lies, for so long; False where this machine cannot do that."""
        if not self.small_disk:
            return False
        filler = self.world.settings.data_dir / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:  # until the disk refuses
                file.write(bytes(65536))
        time.sleep(seconds)
        filler.unlink()
        return True

    def stop_workers(self) -> None:
        for worker in self.workers:
            _kill(worker)
        self.workers.clear()

    def close(self) -> None:
        self.stop_workers()
        self.nursery.close()
        self.backend.kill()


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    while _is_alive(pid):
        time.sleep(0.005)


def worker_environment(settings: Settings) -> dict[str, str]:
    """Environment of processes with these settings; a training takes a second, so that it can be killed."""
    return as_environment(settings) | {"TINY_SLEEP_S": "1"}


def make_world(folder: Path, studio: Studio, database: str) -> World:
    """A project; number n of ``world.tasks`` is picture n."""
    world = World(
        folder,
        N_PICTURES,
        studio,  # type: ignore[arg-type]
        studio_url=studio.url,
        studio_token=LOGIN.token,
        database_url=database,
        backend_url=f"http://127.0.0.1:{free_port()}",
        open_backend=True,
        webhook_secret="a webhook secret",
        signing_key="a signing key",
        review_form="single",
        infer_part=4,
        push_rows=3,
        lease_ttl_s=1.5,
        heartbeat_s=0.3,
        poll_s=0.3,
        early_s=0.0,
        retrain_after=1,
        policy="original",
        policy_options={"min_size": 8, "sample": 8},
    )
    names = {str(task.data["image"]).rsplit("-", 1)[-1]: task.id for task in studio.tasks(world.project_id)}
    world.tasks = [names[f"{number:03d}.png"] for number in range(N_PICTURES)]
    return world


@contextmanager
def servers(folder: Path) -> Iterator[tuple[StudioServer, PostgresServer]]:
    """A Label Studio and a Postgres of our own: those of other tests are not to be killed."""
    with ExitStack() as stack:
        data = folder / "label-studio"
        shutil.copytree(_migrated(find_studio()), data)
        server = stack.enter_context(StudioServer(data, LOGIN, port=free_port(), files_root=folder))
        from tests.postgres import find_postgres

        programs = find_postgres()
        assert programs is not None, "Postgres is not installed"
        postgres = stack.enter_context(PostgresServer(programs, free_port()))
        assert server.process is not None
        stack.enter_context(ends_with_us(os.getpgid(server.process.pid)))
        yield server, postgres


@contextmanager
def open_site(folder: Path, server: StudioServer, postgres: PostgresServer) -> Iterator[Site]:
    """A project on these servers, with everything but workers running."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    wire = Wire((host, int(port)))
    folder.mkdir(parents=True)
    with small_disk(folder / "world" / "data") as is_small, ExitStack() as stack:
        studio = Studio(server.url, LOGIN.token, attempts=8)
        world = make_world(folder / "world", studio, postgres.new_database())
        stack.callback(world.store.close)
        site = Site(folder, server, postgres, wire, world, is_small)
        stack.callback(site.close)
        site.backend.start()
        yield site
    wire.shutdown()
    wire.server_close()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own for ``folder``, which can be filled without harm; needs the rights to mount."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "groundswell-chaos", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
