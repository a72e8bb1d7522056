"""The rules of dependency hold: who may import whom, and what starting the CLI may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        (
            "clustering",
            (
                "ml_backend",
                "sync",
                "torch",
                "torchvision",
                "flask",
                "sqlalchemy",
                "label_studio_sdk",
                "httpx",
                "cv2",
            ),
        ),
        ("ml_backend", ("sync", "sqlalchemy", "label_studio_sdk.client")),
        (
            "ml_backend/learners",
            ("flask", "label_studio_sdk", "ml_backend.regions", "ml_backend.label_config"),
        ),
    ],
)
def test_packages_import_in_one_direction_only(folder: str, forbidden: tuple[str, ...]) -> None:
    paths = modules(folder)
    assert paths, f"no modules below {folder}"
    assert offenders(paths, forbidden) == {}


def test_clicks_never_import_flask() -> None:
    assert offenders(modules("ml_backend/clicks"), ("flask", "label_studio_sdk")) == {}


def test_only_one_module_of_sync_speaks_the_sdk() -> None:
    # init_project takes an admin's own SDK client and hands it to Studio.wrap: it names the type, no call
    allowed = {"sync/studio.py", "sync/studio_http.py", "sync/init_project.py"}
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
