"""Each room lists its public names, and can be the first thing that a program imports."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import clustering

ROOMS = sorted(found.name for found in pkgutil.iter_modules(clustering.__path__) if found.ispkg)


def test_the_rooms_are_packages() -> None:
    assert {"crowd", "evidence", "search", "trees"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_are_listed_once_and_importable(room: str) -> None:
    names = importlib.import_module(f"clustering.{room}").__all__
    assert names
    assert len(names) == len(set(names))
    # a clean process: a circle shows only where a room is imported first
    code = f"from clustering.{room} import *; missing = set({names!r}) - set(dir()); print(sorted(missing))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_of_a_room_lists_its_public_names(room: str) -> None:
    package = importlib.import_module(f"clustering.{room}")
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"clustering.{room}.{found.name}")
        assert module.__all__, module.__name__
        assert all(hasattr(module, name) for name in module.__all__)
        assert not [name for name in module.__all__ if name.startswith("_")]
