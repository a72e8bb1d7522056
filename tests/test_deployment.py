"""Deployment files are accepted by the tools that read them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy.engine import make_url

from sync.cli import COMMANDS
from sync.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


def compose() -> list[str]:
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if probe.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if os.environ.get("CI"):
        pytest.fail("neither `docker compose` nor `docker-compose` is installed")
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """What docker/make_env.sh writes."""
    path = tmp_path / ".env"
    command = [str(ROOT / "docker" / "make_env.sh"), "me@example.org"]
    subprocess.run(command, env={**os.environ, "ENV_FILE": str(path)}, check=True, timeout=60)
    return path


def read_env(path: Path) -> dict[str, str]:
    lines = [x for x in path.read_text().splitlines() if x and not x.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


SECRETS = (
    "POSTGRES_PASSWORD",
    "STUDIO_PASSWORD",
    "STUDIO_TOKEN",
    "BACKEND_PASSWORD",
    "WEBHOOK_SECRET",
    "SIGNING_KEY",
)
SCALE_SECRETS = ("RAY_AUTH_TOKEN", "STORE_PASSWORD")  # of docker/scale.yml alone
SCALE = ["-f", "docker-compose.yml", "-f", "docker/scale.yml"]


def test_the_example_holds_no_password_and_the_script_makes_them(env_file: Path) -> None:
    example, made = read_env(ROOT / ".env.example"), read_env(env_file)
    assert list(example) == list(made)
    assert {name for name, value in example.items() if not value} == {*SECRETS, *SCALE_SECRETS}
    assert made["STUDIO_EMAIL"] == "me@example.org"
    values = [made[name] for name in (*SECRETS, *SCALE_SECRETS)]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch("[0-9a-f]{40}", value) for value in values)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    before = env_file.read_text()
    again = subprocess.run(
        [str(ROOT / "docker" / "make_env.sh")],
        env={**os.environ, "ENV_FILE": str(env_file)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert again.returncode != 0
    assert env_file.read_text() == before


def test_compose_requires_every_secret_and_gives_the_backend_a_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert f"${{{name}:?set {name} in .env}}" in text
        assert f"${{{name}:-" not in text
    assert "GROUNDSWELL_BASIC_AUTH_PASS: ${BACKEND_PASSWORD:?" in text


def composed(env: Path, *files: str) -> dict[str, Any]:
    """What docker compose makes of the file, or of these, with these values."""
    command = [*compose(), *files, "--env-file", str(env), "config"]
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=bare)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout)["services"])


def test_the_example_as_it_is_does_not_start() -> None:
    command = [*compose(), "--env-file", str(ROOT / ".env.example"), "config"]
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=bare)
    assert done.returncode != 0
    assert re.search(f"set ({'|'.join(SECRETS)}) in .env", done.stderr)


@pytest.mark.parametrize("name", SECRETS)
def test_each_secret_must_be_filled_in(env_file: Path, name: str) -> None:
    """One that is left empty is enough to refuse the start."""
    text = re.sub(rf"^{name}=.*$", f"{name}=", env_file.read_text(), flags=re.MULTILINE)
    env_file.write_text(text)
    command = [*compose(), "--env-file", str(env_file), "config"]
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=bare)
    assert done.returncode != 0
    assert f"set {name} in .env" in done.stderr


def test_ports_are_open_to_this_machine_unless_told(env_file: Path) -> None:
    def addresses() -> dict[str, list[str]]:
        found = {name: row.get("ports", []) for name, row in composed(env_file).items()}
        return {name: [host_of(port) for port in ports] for name, ports in found.items()}

    def host_of(port: Any) -> str:  # releases of docker compose write it in two ways
        return (
            str(port.get("host_ip", ""))
            if isinstance(port, dict)
            else str(port).rpartition(":")[0].rpartition(":")[0]
        )

    assert addresses() == {"postgres": [], "worker": [], "studio": ["127.0.0.1"], "backend": ["127.0.0.1"]}
    env_file.write_text(env_file.read_text().replace("BIND_ADDRESS=127.0.0.1", "BIND_ADDRESS=0.0.0.0"))
    assert addresses()["backend"] == ["0.0.0.0"]
    env_file.write_text(env_file.read_text().replace("BIND_ADDRESS=0.0.0.0", ""))
    assert addresses()["studio"] == ["127.0.0.1"]


def test_links_lead_to_the_addresses_that_browsers_reach(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = env_file.read_text().replace("http://localhost:8080", "https://labels.example.org")
    env_file.write_text(text.replace("http://localhost:9090", "https://model.example.org"))
    environment = composed(env_file)["worker"]["environment"]
    for key, value in environment.items():
        monkeypatch.setenv(key, str(value))
    settings = Settings()
    assert settings.shown_studio_url == settings.shown_review_url == "https://labels.example.org"
    assert settings.backend_url == "https://model.example.org"
    assert settings.studio_url == "http://studio.groundswell.internal:8080"
    assert settings.inner_backend_url == "http://backend.groundswell.internal:9090"


@pytest.mark.parametrize("password", ["p@ss/w:rd", "100%?#&", "a@b@c", "'single'"])
def test_any_password_of_the_database_reaches_the_worker(
    env_file: Path, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoted = f'"{password}"' if "'" in password else f"'{password}'"
    lines = re.sub(
        r"^POSTGRES_PASSWORD=.*$", lambda _: f"POSTGRES_PASSWORD={quoted}", env_file.read_text(), flags=re.M
    )
    env_file.write_text(lines)
    services = composed(env_file)
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == password
    assert services["studio"]["environment"]["POSTGRE_PASSWORD"] == password
    for name in ("backend", "worker"):
        with monkeypatch.context() as patch:
            for key, value in services[name]["environment"].items():
                patch.setenv(key, str(value))
            url = make_url(Settings().database())
        assert (url.password, url.host, url.username) == (password, "postgres", "groundswell")


def test_docker_compose_accepts_the_file(env_file: Path) -> None:
    command = [*compose(), "--env-file", str(env_file), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for service in ("studio", "postgres", "backend", "worker"):
        assert re.search(rf"^  {service}:", done.stdout, re.MULTILINE)
    assert done.stdout.count("healthcheck:") == 4
    worker = yaml.safe_load(done.stdout)["services"]["worker"]
    assert worker["healthcheck"]["test"] == ["CMD", "groundswell", "health", "worker"]


def test_the_file_for_a_gpu_adds_to_worker_and_backend_alone(env_file: Path) -> None:
    files = ["-f", "docker-compose.yml", "-f", "docker/gpu.yml"]
    command = [*compose(), *files, "--env-file", str(env_file), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    for name, service in services.items():
        is_ours = name in ("worker", "backend")
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert [device["driver"] for device in devices] == (["nvidia"] if is_ours else [])
        assert ("GROUNDSWELL_PRESET" in service["environment"]) == is_ours
    assert services["worker"]["command"] == ["groundswell", "worker"]
    assert "GROUNDSWELL_BACKEND_INTERNAL_URL" in services["worker"]["environment"]


def test_the_files_for_scale_add_backends_a_proxy_and_a_ray_cluster(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = composed(env_file, *SCALE)
    first, second = services["backend"], services["backend-2"]
    for name in ("command", "environment", "image", "build", "healthcheck", "restart"):
        assert first[name] == second[name], name
    assert "ports" not in second
    proxied = re.findall(r"^\s+server ([\w-]+):9090;", (ROOT / "docker/proxy.conf").read_text(), re.MULTILINE)
    assert proxied == ["backend", "backend-2"]
    worker = services["worker"]
    for name, value in worker["environment"].items():
        monkeypatch.setenv(name, str(value))
    settings = Settings()
    assert (settings.executor, settings.ray_address) == ("ray", "ray-head:6379")
    joins = [services["ray-node"]["command"][2], worker["command"][2].split()[2]]
    assert joins == [f"--address={settings.ray_address}"] * 2
    token = read_env(env_file)["RAY_AUTH_TOKEN"]
    for service in (worker, services["ray-head"], services["ray-node"]):
        assert service["image"] == "groundswell:ray"
        assert service["build"]["args"]["EXTRAS"] == "ray,s3"
        assert (service["environment"]["RAY_AUTH_MODE"], service["environment"]["RAY_AUTH_TOKEN"]) == (
            "token",
            token,
        )
        assert "ports" not in service
    assert "${EXTRAS:+,$EXTRAS}" in (ROOT / "Dockerfile").read_text()


def test_the_machines_for_scale_share_files_through_a_store_and_no_volume(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = composed(env_file, *SCALE)
    sharing = ("backend", "backend-2", "worker")
    data = [str(volume) for name in sharing for volume in services[name]["volumes"]]
    assert len(data) == len(set(data)) == 3
    assert all("/data" in volume for volume in data)
    store = services["store"]
    port = next(word for word in store["command"] if word.startswith("-s3.port=")).partition("=")[2]
    password = read_env(env_file)["STORE_PASSWORD"]
    credentials = {"AWS_ACCESS_KEY_ID": "groundswell", "AWS_SECRET_ACCESS_KEY": password}
    assert store["environment"] == credentials
    assert "ports" not in store
    for name in (*sharing, "bucket"):
        told = services[name]["environment"]
        assert {key: told[key] for key in credentials} == credentials
        assert told["AWS_ENDPOINT_URL"] == f"http://store:{port}"
        assert "s3" in services[name]["build"]["args"]["EXTRAS"].split(",")
        if name != "bucket":
            assert services[name]["depends_on"]["bucket"]["condition"] == "service_completed_successfully"
            with monkeypatch.context() as patch:
                for key, value in told.items():
                    patch.setenv(key, str(value))
                assert Settings().artifacts_url.startswith("s3://")
    # ports of the store that ask for no password are in a network without Label Studio
    networks = {name: set(service.get("networks") or {"default"}) for name, service in services.items()}
    assert {name for name, found in networks.items() if "store" in found} == {*sharing, "bucket", "store"}
    assert networks["store"] == networks["bucket"] == {"store"}
    assert "backend.groundswell.internal" in services["backend"]["networks"]["default"]["aliases"]


@pytest.mark.parametrize("name", SCALE_SECRETS)
def test_the_files_for_scale_do_not_start_without_a_token(env_file: Path, name: str) -> None:
    text = env_file.read_text()
    env_file.write_text(re.sub(rf"^{name}=.*$", f"{name}=", text, flags=re.MULTILINE))
    command = [*compose(), *SCALE, "--env-file", str(env_file), "config"]
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=bare)
    assert done.returncode != 0
    assert f"set {name} in .env" in done.stderr


def test_the_example_for_kubernetes_is_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "examples" / "kubernetes"
    (ray,) = yaml.safe_load_all((folder / "ray-cluster.yaml").read_text())
    rows = list(yaml.safe_load_all((folder / "groundswell.yaml").read_text()))
    named = {(row["kind"], row["metadata"]["name"]): row["spec"] for row in rows}
    assert all(row["apiVersion"] for row in rows)
    assert f"ray=={ray['spec']['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    head = f"{ray['metadata']['name']}-head-svc:6379"
    pods = {name: spec["template"]["spec"] for (kind, name), spec in named.items() if kind == "Deployment"}
    assert set(pods) == {"backend", "worker"}
    claims = {name for kind, name in named if kind == "PersistentVolumeClaim"}
    for name, pod in pods.items():
        labels = named["Deployment", name]["template"]["metadata"]["labels"]
        assert named["Deployment", name]["selector"]["matchLabels"] == labels
        assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]} == claims
        with monkeypatch.context() as patch:
            for variable in pod["containers"][0]["env"]:
                patch.setenv(variable["name"], variable["value"])
                field = variable["name"].removeprefix("GROUNDSWELL_").lower()
                assert variable["name"].startswith("RAY_") or field in Settings.model_fields, variable
            settings = Settings()
        assert str(settings.data_dir) == pod["containers"][0]["volumeMounts"][0]["mountPath"]
        assert settings.executor == ("ray" if name == "worker" else "local")
        if name == "worker":
            assert settings.ray_address == head
            assert f"ray start --address={head} " in pod["containers"][0]["command"][2]
            assert pod["terminationGracePeriodSeconds"] > settings.stop_s
    assert named["Service", "backend"]["selector"] == {"app": "groundswell-backend"}
    groups = [ray["spec"]["headGroupSpec"], *ray["spec"]["workerGroupSpecs"]]
    images = [group["template"]["spec"]["containers"][0]["image"] for group in groups]
    assert {*images, pods["worker"]["containers"][0]["image"]} == {"groundswell:ray"}


def test_compose_refuses_to_start_without_secrets(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    nothing = tmp_path / "empty.env"
    nothing.write_text("")
    command = [*compose(), "--env-file", str(nothing), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode != 0
    assert "set STUDIO_TOKEN in .env" in done.stderr or "set POSTGRES_PASSWORD in .env" in done.stderr


def test_the_image_gets_every_file_that_its_installation_reads() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert all((ROOT / source).exists() for source in copied)
    assert ignored.isdisjoint(copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    read = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *packages}
    assert read <= set(copied)


def test_the_image_can_back_up_the_database_of_docker_compose() -> None:
    """pg_dump refuses a server that is newer than itself."""
    image = (ROOT / "Dockerfile").read_text()
    base = re.match(r"FROM python:3\.11-slim-(\w+)\n", image)
    assert base is not None, "the release of Debian decides on that of pg_dump"
    assert "postgresql-client" in image.split("WORKDIR")[0]
    server = re.search(r"image: postgres:(\d+)\n", (ROOT / "docker-compose.yml").read_text())
    assert server is not None
    assert int(server[1]) <= {"bookworm": 15, "trixie": 17}[base[1]]


def test_a_change_of_the_sources_installs_no_package_again() -> None:
    lines = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
    installs = [number for number, line in enumerate(lines) if "pip install" in line]
    sources = [
        number for number, line in enumerate(lines) if re.match(r"COPY (clustering|ml_backend|sync) ", line)
    ]
    first, second = installs
    assert first < min(sources) < max(sources) < second
    assert "-c constraints.txt" in lines[first]
    assert "--no-deps --force-reinstall" in lines[second]


@pytest.mark.parametrize("command", ["worker", "serve"])
def test_the_units_of_systemd_start_commands_that_exist(command: str, tmp_path: Path) -> None:
    name = {"worker": "groundswell-worker", "serve": "groundswell-backend"}[command]
    unit = ROOT / f"examples/systemd/{name}.service"
    told = dict(line.split("=", 1) for line in unit.read_text().splitlines() if re.match(r"\w+=", line))
    assert command in COMMANDS
    assert told["ExecStart"].endswith(f" groundswell {command}")
    assert (told["Restart"], told["User"]) == ("always", "groundswell")
    if shutil.which("systemd-analyze"):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text())
        done = subprocess.run(
            ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False
        )
        assert [line for line in done.stderr.splitlines() if unit.name in line] == []
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-studio.txt"])
def test_constraints_hold_versions_and_no_addresses(name: str) -> None:
    lines = [x for x in (ROOT / name).read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
