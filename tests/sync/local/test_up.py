"""Starting and stopping: secrets, ports, process groups, state, without a Label Studio."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_backend.errors import BadInput, GroundswellError, StorageError, StudioError
from sync.console import parse_options
from sync.installation import effective_settings
from sync.local.label_studio_server import Login, StudioServer, check_port, find_studio, studio_env
from sync.local.processes import start_time, stop_group, stop_left_over
from sync.local.secrets import load_secrets
from sync.local.up import Stack, read_state
from sync.settings import Settings

# a process that starts a child, says so, and (if told) shrugs off SIGTERM
FAMILY = """
import signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
print(child.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GROUNDSWELL_"):
            monkeypatch.delenv(name)


def family(manner: str) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY, manner], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def gone(pid: int) -> bool:
    for _ in range(100):
        if start_time(pid) is None:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_a_group_is_ended_with_its_children_and_nothing_else(manner: str) -> None:
    bystander, other = family("polite")
    process, child = family(manner)
    stop_group(process, grace_s=0.5)
    assert process.returncode is not None
    assert gone(child)
    assert bystander.poll() is None
    assert start_time(other) is not None
    stop_group(bystander)
    stop_group(bystander)  # a second time changes nothing
    assert gone(other)


def test_a_left_over_is_ended_only_if_it_is_the_same_process() -> None:
    process, child = family("polite")
    started = start_time(process.pid)
    assert started is not None
    assert not stop_left_over(process.pid, started - 60.0)
    assert not stop_left_over(process.pid, None)
    assert process.poll() is None
    assert stop_left_over(process.pid, started)
    process.wait(timeout=5)
    assert gone(child)
    assert not stop_left_over(process.pid, started)


def test_a_child_that_left_the_group_and_one_without_parent_are_ended_too() -> None:
    script = """
import subprocess, sys, time
wait = [sys.executable, "-c", "import time; time.sleep(120)"]
runaway = subprocess.Popen(wait, start_new_session=True)
quiet = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
between = f"import subprocess, sys; print(subprocess.Popen(sys.argv[1:], {quiet}).pid)"
orphan = subprocess.run([sys.executable, "-c", between, *wait], capture_output=True, text=True).stdout
print(runaway.pid, orphan.strip(), flush=True)
time.sleep(120)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    runaway, orphan = (int(word) for word in process.stdout.readline().split())
    assert start_time(runaway) is not None
    assert start_time(orphan) is not None
    stop_group(process, grace_s=5.0)
    assert gone(runaway)
    assert gone(orphan)


def test_two_backends_do_not_share_a_control_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # short: the path of a socket is limited to 100 characters
        common = Path(folder) / "run"
        common.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(common))
        with contextlib.ExitStack() as stacks:
            for name in ("one", "two"):
                made = stack(
                    Path(folder) / name,
                    backend_port=free_port(),
                    studio_url="http://127.0.0.1:1",
                    api_key="key",
                    with_worker=False,
                )
                stacks.enter_context(made)
            for name in ("one", "two"):
                assert (Path(folder) / name / "backend.ctl").is_socket()
            assert list(common.iterdir()) == []


def test_secrets_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_secrets(tmp_path / "data"), range(8)))
    assert len({secrets.token for secrets in found}) == 1
    path = tmp_path / "data" / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["secrets.json"]
    assert len(found[0].token) == 40
    for value in (found[0].password, found[0].token, found[0].webhook_secret, found[0].backend_password):
        assert value not in repr(found[0])


def test_secrets_of_an_older_version_get_one_password_for_the_backend(tmp_path: Path) -> None:
    made = load_secrets(tmp_path)
    path = tmp_path / "secrets.json"
    older = json.loads(path.read_text())
    del older["backend_password"]
    path.write_text(json.dumps(older))
    first, second = load_secrets(tmp_path), load_secrets(tmp_path)
    assert len(first.backend_password) > 20
    assert first.backend_password == second.backend_password
    assert first.backend_password not in (made.backend_password, *older.values())


def test_damaged_secrets_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"email": "a@b.c"}')
    with pytest.raises(StorageError, match="password"):
        load_secrets(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == '{"email": "a@b.c"}'


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(GroundswellError, match=str(port)) as caught:
            check_port("127.0.0.1", port, "Label Studio")
    assert "another port" in caught.value.hint
    check_port("127.0.0.1", port, "Label Studio")


def test_a_missing_server_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(GroundswellError, match="make install"):
        find_studio(tmp_path / "nothing")


def test_the_servers_environment_holds_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUNDSWELL_STUDIO_TOKEN", "secret")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "something.else")
    env = studio_env(tmp_path, Login("a@b.c", "password", "token"), files_root=tmp_path)
    assert "GROUNDSWELL_STUDIO_TOKEN" not in env
    assert "DJANGO_SETTINGS_MODULE" not in env
    assert env["COLLECT_ANALYTICS"] == "False"
    assert env["LATEST_VERSION_CHECK"] == "false"
    assert env["ML_BLOCK_LOCAL_IP"] == env["SSRF_PROTECTION_ENABLED"] == "false"


def stand_in(folder: Path, script: str) -> Path:
    """A virtual environment whose label-studio is this script."""
    program = folder / "bin" / "label-studio"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_dies_at_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    venv = stand_in(tmp_path / "venv", "import sys; print('no such table: users'); sys.exit(3)")
    server = StudioServer(tmp_path / "data", Login("a@b.c", "p", "t"), port=free_port(), venv=venv)
    with pytest.raises(StudioError, match=r"code 3 at start: no such table") as caught:
        server.start()
    assert str(server.log) in caught.value.hint
    assert server.process is None


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    venv = stand_in(tmp_path / "venv", script)
    server = StudioServer(tmp_path / "data", Login("a@b.c", "p", "t"), port=free_port(), venv=venv)
    with pytest.raises(StudioError, match="did not answer within 1 s"):
        server.start(timeout_s=1.0)
    assert gone(int(pid_file.read_text()))


def stack(data_dir: Path, **options: object) -> Stack:
    return Stack(Settings(data_dir=data_dir), **options)  # type: ignore[arg-type]


def test_addresses_token_and_secrets_are_filled_in_and_passed_on(tmp_path: Path) -> None:
    made = stack(tmp_path, studio_port=18080, backend_port=19090)
    assert made.settings.studio_url == "http://127.0.0.1:18080"
    assert made.settings.backend_url == "http://127.0.0.1:19090"
    env = made.environment()
    assert env["GROUNDSWELL_STUDIO_TOKEN"] == made.secrets.token
    assert env["GROUNDSWELL_WEBHOOK_SECRET"] == made.secrets.webhook_secret
    assert env["GROUNDSWELL_BASIC_AUTH_USER"] == "groundswell"
    assert env["GROUNDSWELL_BASIC_AUTH_PASS"] == made.secrets.backend_password
    beside = effective_settings(tmp_path)  # what other commands on this data directory use
    assert beside.basic_auth_user == "groundswell"
    assert beside.basic_auth_pass == made.settings.basic_auth_pass
    own = Stack(Settings(data_dir=tmp_path, basic_auth_user="me", basic_auth_pass="mine"), studio_port=18080)  # type: ignore[arg-type]
    assert (own.settings.basic_auth_user, own.settings.basic_auth_pass.get_secret_value()) == ("me", "mine")
    assert env["GROUNDSWELL_DATA_DIR"] == str(tmp_path)
    assert "GROUNDSWELL_SEED" not in env
    again = stack(tmp_path, studio_port=18080, backend_port=19090)
    assert again.environment() == env


def test_every_setting_survives_the_way_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Settings(
        data_dir=tmp_path,
        seed=7,
        iterations=40,
        learner_options={"size": 320},
        test_fraction=0.5,
        linkage="exact",
    )
    made = Stack(given, studio_port=18080)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == made.settings


def test_an_existing_label_studio_needs_address_and_key(tmp_path: Path) -> None:
    with pytest.raises(GroundswellError, match="both"):
        stack(tmp_path, studio_url="http://127.0.0.1:8080")
    made = stack(tmp_path, studio_url="http://studio.example.org/", api_key="key")
    assert made.settings.studio_url == "http://studio.example.org"
    assert made.settings.studio_token.get_secret_value() == "key"
    assert made.url == "http://studio.example.org"
    assert not made.embedded
    with pytest.raises(BadInput, match=r"studio_url: no address.*--studio-url"):
        stack(tmp_path, studio_url="studio.example.org", api_key="key")
    public = Settings(data_dir=tmp_path, studio_public_url="https://labels.example")
    assert Stack(public, studio_port=18080).url == "https://labels.example", "where people open it"


def test_a_second_start_on_the_same_data_is_refused_and_a_crashed_one_is_cleaned_up(tmp_path: Path) -> None:
    runs, _ = family("polite")
    state = {
        "pid": runs.pid,
        "started": start_time(runs.pid),
        "studio_url": "http://127.0.0.1:1",
        "backend_url": "http://127.0.0.1:2",
        "files_root": "/",
        "embedded": True,
        "parts": [],
    }
    (tmp_path / "up.json").write_text(json.dumps(state))
    found = read_state(tmp_path)
    assert found is not None
    assert found.running
    second = stack(tmp_path, studio_port=free_port(), backend_port=free_port())
    with pytest.raises(GroundswellError, match="already runs"):
        second.start()
    stop_group(runs)

    found = read_state(tmp_path)
    assert found is not None
    assert not found.running
    left, child = family("polite")
    part = {"name": "worker", "pid": left.pid, "started": start_time(left.pid), "log": ""}
    (tmp_path / "up.json").write_text(json.dumps({**state, "parts": [part]}))
    said: list[str] = []
    third = stack(
        tmp_path,
        studio_port=free_port(),
        backend_port=free_port(),
        studio_venv=stand_in(tmp_path / "venv", "raise SystemExit(3)"),
        report=said.append,
    )
    with pytest.raises(StudioError, match="code 3"):
        third.start()
    left.wait(timeout=5)
    assert gone(child)
    assert any("left over" in line for line in said)
    assert read_state(tmp_path) is None


def test_commands_find_what_up_wrote_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = load_secrets(tmp_path)
    state = {
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "studio_url": "http://127.0.0.1:1",
        "backend_url": "http://127.0.0.1:2",
        "files_root": "/",
        "embedded": True,
        "parts": [],
    }
    (tmp_path / "up.json").write_text(json.dumps(state))
    found = effective_settings(tmp_path)
    assert found.studio_url == "http://127.0.0.1:1"
    assert found.studio_token.get_secret_value() == secrets.token
    path = tmp_path / "secrets.json"
    path.write_text(path.read_text().replace(secrets.token, "a changed key"))
    assert found.current_studio_token() == "a changed key"
    assert effective_settings(tmp_path, api_key="given").current_studio_token() == "given"
    monkeypatch.setenv("GROUNDSWELL_STUDIO_URL", "http://127.0.0.1:3")
    assert effective_settings(tmp_path).studio_url == "http://127.0.0.1:3"
    assert effective_settings(tmp_path, studio_url="http://127.0.0.1:4/").studio_url == "http://127.0.0.1:4"
    with pytest.raises(BadInput, match=r"studio_url: no address.*--studio-url"):
        effective_settings(tmp_path, studio_url="127.0.0.1:4")


def test_options_are_json_where_they_can_be() -> None:
    found = parse_options(
        ["min_finished=10", "policy=certified", 'policy_options={"delta": 0.1}', "preset=light"]
    )
    assert found == {
        "min_finished": 10,
        "policy": "certified",
        "policy_options": {"delta": 0.1},
        "preset": "light",
    }
    with pytest.raises(BadInput, match="name=value"):
        parse_options(["min_finished"])


def test_a_second_signal_after_the_clean_up_does_not_change_the_exit_code() -> None:
    script = """
import os, signal, time, typer
from sync.console import interruptible
try:
    with interruptible(exit_code=7):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
except typer.Exit as exit:
    os.kill(os.getpid(), signal.SIGTERM)
    raise SystemExit(exit.exit_code)
"""
    assert (
        subprocess.run([sys.executable, "-c", script], check=False, stdout=subprocess.DEVNULL).returncode == 7
    )
