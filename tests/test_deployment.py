"""Deployment files are accepted by the tools that read them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

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


def test_the_example_holds_no_password_and_the_script_makes_them(env_file: Path) -> None:
    example, made = read_env(ROOT / ".env.example"), read_env(env_file)
    assert list(example) == list(made)
    assert {name for name, value in example.items() if not value} == set(SECRETS)
    assert made["STUDIO_EMAIL"] == "me@example.org"
    values = [made[name] for name in SECRETS]
    assert len(set(values)) == len(SECRETS)
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


def test_docker_compose_accepts_the_file(env_file: Path) -> None:
    command = [*compose(), "--env-file", str(env_file), "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for service in ("studio", "postgres", "backend", "worker"):
        assert re.search(rf"^  {service}:", done.stdout, re.MULTILINE)
    assert done.stdout.count("healthcheck:") == 4


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


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-studio.txt"])
def test_constraints_hold_versions_and_no_addresses(name: str) -> None:
    lines = [x for x in (ROOT / name).read_text().splitlines() if x and not x.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in lines)
