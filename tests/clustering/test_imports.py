"""clustering stays pure arrays: importing all of it loads no network, server or database code."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import clustering

FORBIDDEN = (
    "torch",
    "torchvision",
    "flask",
    "sqlalchemy",
    "label_studio_sdk",
    "httpx",
    "PIL",
    "ml_backend",
    "sync",
)


def test_importing_every_module_in_a_clean_process_loads_nothing_heavy() -> None:
    names = [module.name for module in pkgutil.walk_packages(clustering.__path__, "clustering.")]
    assert {
        "clustering.pool",
        "clustering.trees.distance",
        "clustering.trees.linkage",
        "clustering.trees.tree",
    } <= set(names)
    script = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted(set({FORBIDDEN!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == []
