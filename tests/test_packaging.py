"""The wheel: complete, and enough for an admin's command line without any extra.

The fresh environment holds the wheel and links to the packages that its metadata asks for, found in the
environment of the tests. So nothing is downloaded, and what only an extra brings cannot be imported.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ml_backend.extras import EXTRA_OF, PARTS_OF
from sync.local.label_studio_server import find_studio
from tests.conftest import LOGIN

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("clustering", "ml_backend", "sync")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources without network."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def metadata(wheel: Path) -> dict[str, list[str]]:
    """Header fields of the wheel's metadata, each with all its values."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(name).decode())
    return {key: [str(value) for value in message.get_all(key) or []] for key in message}


def asked_for(requirements: list[str], extras: tuple[str, ...] = ("",)) -> Iterator[Requirement]:
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement


def base_distributions(wheel: Path) -> dict[str, importlib.metadata.Distribution]:
    """What the wheel needs without extras, and what that needs, from this environment."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = list(asked_for(metadata(wheel)["Requires-Dist"]))
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            todo += asked_for(found[name].requires or [], ("", *requirement.extras))
    return found


def install(home: Path, wheel: Path) -> None:
    """Install the wheel alone into the virtual environment of this folder.

    Without PYTHONPATH: where it names the sources, pip takes their egg-info for Groundswell, installed.
    """
    venv.create(home, with_pip=False, symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    assert (home / "bin/groundswell").exists(), done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh virtual environment with the wheel and its base dependencies."""
    home = tmp_path_factory.mktemp("environment")
    install(home, wheel)
    links = tmp_path_factory.mktemp("links")
    for distribution in base_distributions(wheel).values():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__", "bin"}:
            place = Path(str(distribution.locate_file(top)))
            if place.exists() and not (links / top).exists():
                (links / top).symlink_to(place)
    (site,) = home.glob("lib/python3*/site-packages")
    (site / "links.pth").write_text(f"{links}\n")
    return home / "bin"


def run(environment: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``groundswell`` there, outside the sources."""
    return subprocess.run(
        [str(environment / "groundswell"), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(environment), "HOME": str(cwd), "COLUMNS": "200"},
    )


@pytest.fixture
def whole_environment(wheel: Path, tmp_path: Path) -> Path:
    """The programs of a fresh environment: Groundswell from the wheel, all other packages from the tests'."""
    home = tmp_path / "whole"
    install(home, wheel)
    (site,) = home.glob("lib/python3*/site-packages")
    # a folder named in a .pth file is searched last, and .pth files in it do not count: the sources, which
    # are installed there as editable, cannot be found
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return home / "bin"


@pytest.mark.studio
@pytest.mark.slow
def test_the_demo_of_the_wheel_runs_the_whole_loop(
    whole_environment: Path, studio_template: Path, tmp_path: Path
) -> None:
    """What `make demo` and an admin run: the real Mask R-CNN, Label Studio, backend, annotator and crowd.

    Few pictures and few steps: the figures are poor, the path is the whole one.
    """
    data, report = tmp_path / "data", tmp_path / "report.json"
    data.mkdir()
    shutil.copytree(studio_template, data / "label-studio")  # its first start takes half a minute
    keys = {
        "webhook_secret": "a secret",
        "signing_key": "a signing key of tests",
        "backend_password": "a pass",
    }
    login = {"email": LOGIN.email, "password": LOGIN.password, "token": LOGIN.token}
    (data / "secrets.json").write_text(json.dumps(login | keys))
    words = ["--headless", "--rounds", "1", "--limit", "6", "--start-tasks", "4", "--budget", "4", "--json"]
    words += ["--option", "iterations=3", "--data-dir", str(data), "--report", str(report)]
    done = subprocess.run(
        [str(whole_environment / "groundswell"), "demo", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
        env={
            "PATH": f"{whole_environment}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "GROUNDSWELL_STUDIO_VENV": str(find_studio().parent.parent),
            "GROUNDSWELL_TRAIN_CLICKS": "false",
        },
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (only,) = json.loads(report.read_text())["rounds"]
    assert (only["round"], only["labelled_tasks"]) == (1, 4)
    assert only["headline"] in only["metrics"]
    (manifest,) = data.glob("projects/*/models/gs*/manifest.json")
    made = json.loads(manifest.read_text())
    assert (made["learner"], made["iterations"]) == ("maskrcnn", 3)
    (pool,) = data.glob("projects/*/pools/gs*")
    assert any(pool.rglob("*.parquet")), "the model looked at the other pictures"
    code = "import ml_backend, sync; print(sync.__file__)"
    where = subprocess.run(
        [str(whole_environment / "python"), "-c", code],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={}, timeout=60,
    )  # fmt: skip
    assert where.stdout.startswith(str(tmp_path)), "the code is that of the wheel"


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"clustering/py.typed", "ml_backend/py.typed", "sync/py.typed"} <= wanted
    assert wanted - inside == set()
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_packages_of_extras_cannot_be_imported_in_the_base_environment(environment: Path) -> None:
    code = f"from importlib.util import find_spec; print([n for n in {sorted(EXTRA_OF)} if find_spec(n)])"
    done = subprocess.run(
        [str(environment / "python"), "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words", [["--help"], ["init", "--help"], ["status", "--help"], ["export", "--help"], ["models"]]
)
def test_the_command_line_runs_without_extras(environment: Path, tmp_path: Path, words: list[str]) -> None:
    done = run(environment, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("words", [["status"], ["doctor"], ["export", "--project", "1", "--out", "out.json"]])
def test_an_admins_commands_fail_for_no_missing_package(
    environment: Path, tmp_path: Path, words: list[str]
) -> None:
    done = run(environment, *words, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "not installed" not in done.stdout + done.stderr


def test_options_of_a_project_are_checked_without_extras(environment: Path, tmp_path: Path) -> None:
    script = (
        "from ml_backend.errors import BadInput\n"
        "from sync.rounds.registration import check_project_settings\n"
        "from ml_backend.kinds.registry import Wanted\n"
        "from sync.settings import Settings\n"
        "masks = (Wanted('instances', ('cell',)),)\n"
        "check_project_settings(Settings(policy='certified'), masks)\n"
        "try:\n"
        "    check_project_settings(Settings(policy='certified', policy_options={'promis': 0.9}), masks)\n"
        "except BadInput as error:\n"
        "    print(error.field)\n"
    )
    done = subprocess.run(
        [str(environment / "python"), "-c", script],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": str(environment)},
    )  # fmt: skip
    assert done.stdout.strip() == "options.policy_options", done.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["worker", "--once"], "worker"),
        (["round", "--project", "1"], "worker"),
        (["up"], "backend,worker"),
        (["up", "--no-worker"], "backend"),
        (["simulate", "--pool", "pool.npz", "--policy", "original"], "cluster"),
        (["demo", "--headless"], "backend,worker,plots"),
        (["pool", "--images", ".", "--coco", "a.json", "--out", "a.npz"], "models"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(
    environment: Path, tmp_path: Path, words: list[str], extra: str
) -> None:
    done = run(environment, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert f"pip install 'groundswell[{extra}]'" in done.stderr
    assert done.stderr.startswith("error: not installed here: ")
    assert len(done.stderr.splitlines()) == 1


def test_the_table_of_extras_is_that_of_the_wheel(wheel: Path) -> None:
    requirements = metadata(wheel)["Requires-Dist"]
    declared = set(metadata(wheel)["Provides-Extra"])
    base = {canonicalize_name(requirement.name) for requirement in asked_for(requirements)}
    provided_by = importlib.metadata.packages_distributions()
    for module, extra in EXTRA_OF.items():
        assert extra in declared
        direct = {canonicalize_name(r.name) for r in asked_for(requirements, (extra,))} - base
        ours = {canonicalize_name(name) for name in provided_by[module]}
        # werkzeug comes with Flask
        assert ours & direct or module == "werkzeug", f"extra {extra} does not install {module}"
    for extra, parts in PARTS_OF.items():
        text = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
        own = {extra} & set(EXTRA_OF.values())
        listed = {part for line in text for part in Requirement(line).extras}
        assert listed | own == parts


@pytest.mark.parametrize("place", ["Makefile", "Dockerfile", "README.md", "CONTRIBUTING.md", "docs"])
def test_extras_named_elsewhere_exist(place: str, wheel: Path) -> None:
    declared = set(metadata(wheel)["Provides-Extra"])
    pages = sorted((ROOT / place).glob("*.md")) if place == "docs" else [ROOT / place]
    for page in pages:
        for group in re.findall(r"'(?:groundswell|\.)\[([a-z0-9,-]+)\]'", page.read_text()):
            assert set(group.split(",")) <= declared, f"{page.name}: [{group}]"
