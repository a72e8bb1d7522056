"""The rooms and who may import whom: rules of dependency, no circles, and what starting the CLI may load.

A *room* is a sub-package, or a module that lies directly in a package. ``LAYERS`` lists the rooms of each
package from the bottom up: a module imports from its own room and from layers below, never from a room beside
or above it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS: dict[str, list[str]] = {
    "clustering": [
        "arrays",
        "pool evidence crowd",
        "trees",
        "project_pool",
        "answers verifier",
        "costs",
        "search",
        "alike completeness duplicates matching mistakes propagation quotas remaining simulation task_order "
        "thresholds truth_draws typical",
        "price",
    ],
    "ml_backend": [
        "errors error_lines log_fields",
        "config_file server_address",
        "settings instances caches device_fallback rates tls",
        "metrics examples devices extras logs box_density authorisation",
        "masks",
        "kinds",
        "label_studio.codecs",
        "label_studio",
        "artifacts",
        "images",
        "learners",
        "learners.training",
        "learners.maskrcnn",
        "learners.boxes",
        "learners.cold_start",
        "learners.detectron2",
        "learners.segmentation",
        "learners.classes",
        "learners.weak",
        "learners.alike",
        "clicks",
        "clicks.segmenters",
        "clicks.project_network",
        "clicks.ranking",
        "clicks.serving clicks.evaluation",
        "clicks.training",
        "task_prediction",
        "services",
        "task_answers",
        "model",
        "app label_studio_ml_adapter",
        "_wsgi",
    ],
    "sync": [
        "database_url executor_settings",
        "settings",
        "studio store executor",
        "artifacts",
        "local rounds store.migrations store.migrations.versions",
        "alike mistakes review",
        "exchange.readers",
        "worker exchange",
        "backup projects",
        "console installation",
        "report lab",
        "dashboard",
        "web.access",
        "web.sign_in",
        "web.review web.dashboard web.preview",
        "web",
        "commands",
        "cli",
    ],
}
WEB_FACE = (
    "ml_backend.app",
    "ml_backend.model",
    "ml_backend.services",
    "ml_backend.task_answers",
    "ml_backend.metrics",
    "ml_backend.authorisation",
    "ml_backend._wsgi",
)


def imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def offenders(paths: list[Path], forbidden: tuple[str, ...]) -> dict[str, list[str]]:
    bad: dict[str, list[str]] = {}
    for path in paths:
        hits = [n for n in imports(path) if any(n == f or n.startswith(f + ".") for f in forbidden)]
        if hits:
            bad[str(path.relative_to(ROOT))] = sorted(hits)
    return bad


def module_names() -> dict[str, Path]:
    """Every module of the three packages by its dotted name; a package by the name of its folder."""
    found = {}
    for package in LAYERS:
        for path in modules(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str, known: dict[str, Path]) -> str:
    """The room of a module, without its package: ``ml_backend.masks.rle`` lies in ``masks``."""
    parts = module.split(".")[1:]
    if known[module].name != "__init__.py" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def imported_modules(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports; ``from package import module`` counts as the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in known else node.module for name in names)
    return {name for name in found if name in known}


def test_every_room_is_listed_and_every_listed_room_exists() -> None:
    known = module_names()
    for package, layers in LAYERS.items():
        there = {room_of(name, known) for name in known if name.startswith(f"{package}.")}
        with_code = {
            room
            for name, path in known.items()
            if name.startswith(f"{package}.") and path.read_text().strip() and (room := room_of(name, known))
        }
        listed = [room for layer in layers for room in layer.split()]
        assert len(listed) == len(set(listed))
        assert set(listed) <= there
        assert with_code <= set(listed)


@pytest.mark.parametrize("package", LAYERS)
def test_rooms_import_only_from_layers_below(package: str) -> None:
    known = module_names()
    layer_of = {room: depth for depth, layer in enumerate(LAYERS[package]) for room in layer.split()}
    bad = []
    for name, path in known.items():
        room = room_of(name, known)
        if not name.startswith(f"{package}.") or room not in layer_of:
            continue
        for target in imported_modules(path, known):
            if not target.startswith(f"{package}."):
                continue
            other = room_of(target, known)
            if other != room and layer_of[other] >= layer_of[room]:
                bad.append(f"{name} imports {target}")
    assert bad == []


def test_modules_import_each_other_in_no_circle() -> None:
    known = module_names()
    left = {name: imported_modules(path, known) - {name} for name, path in known.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


NOT_ARRAYS = ("torch", "torchvision", "flask", "sqlalchemy", "label_studio_sdk", "httpx", "cv2", "PIL")


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("clustering", ("ml_backend", "sync", *NOT_ARRAYS)),
        ("ml_backend", ("sync", "sqlalchemy", "label_studio_sdk.client")),
        ("ml_backend/masks", ("torch", "flask", "ml_backend.label_studio")),
        ("ml_backend/learners", ("flask", "label_studio_sdk", "ml_backend.label_studio")),
        ("ml_backend/clicks", ("flask", "label_studio_sdk")),
        ("ml_backend/clicks/segmenters", ("ml_backend.label_studio",)),
        ("ml_backend/clicks/project_network", ("ml_backend.label_studio",)),
        ("ml_backend/clicks/ranking", ("ml_backend.label_studio",)),
        ("ml_backend/clicks/training", ("ml_backend.label_studio",)),
        ("ml_backend/clicks/evaluation", ("ml_backend.label_studio",)),
    ],
)
def test_what_a_folder_must_not_import(folder: str, forbidden: tuple[str, ...]) -> None:
    paths = modules(folder)
    assert paths, f"no modules below {folder}"
    assert offenders(paths, forbidden) == {}


def test_only_the_pages_of_sync_know_the_web_face_of_the_backend() -> None:
    paths = [path for path in modules("sync") if "web" not in path.relative_to(ROOT).parts]
    assert offenders(paths, (*WEB_FACE, "flask")) == {}


def test_only_one_module_of_sync_speaks_the_sdk() -> None:
    # init_project takes an admin's own SDK client and hands it to Studio.wrap: it names the type, no call
    allowed = {
        "sync/studio/client.py",
        "sync/studio/http.py",
        "sync/studio/checks.py",
        "sync/studio/tokens.py",
        "sync/projects/init_project.py",
    }
    bad = offenders(modules("sync"), ("label_studio_sdk",))
    assert set(bad) <= allowed


def test_no_module_outgrows_600_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for package in ("clustering", "ml_backend", "sync")
        for p in modules(package)
        if (n := len(p.read_text().splitlines())) > 600
    }
    assert long == {}


def test_cli_starts_without_heavy_libraries() -> None:
    code = (
        "import sys; from sync.cli import build_app; build_app();"
        "heavy = {'torch', 'sklearn', 'pyarrow', 'label_studio_sdk', 'matplotlib', 'cv2', 'sqlalchemy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
