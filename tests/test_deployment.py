"""Deployment files are accepted by the tools that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

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


def test_docker_compose_accepts_the_file() -> None:
    command = [*compose(), "--env-file", ".env.example", "config"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for service in ("studio", "postgres", "backend", "worker"):
        assert re.search(rf"^  {service}:", done.stdout, re.MULTILINE)
    assert done.stdout.count("healthcheck:") == 4


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
