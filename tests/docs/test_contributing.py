"""The worked examples of CONTRIBUTING.md, registered and tested as the page says."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clustering.answers import SearchPolicy
from clustering.search import POLICIES
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.serving.catalog import SEGMENTERS, SegmenterEntry, build_segmenter
from ml_backend.learners.base import Learner
from ml_backend.learners.registry import LEARNERS, get_learner
from ml_backend.settings import BackendSettings
from tests.docs.pages import ROOT, code_blocks

PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def example(title: str) -> tuple[str, str, str, str]:
    """The parts of one example: name of the module, its source, the registration, the test."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    (path,) = re.findall(r"Save it as\s+`([^`]+)\.py`", section)
    source, registration, test = [block for language, block in code_blocks(section) if language == "python"]
    assert not (ROOT / f"{path}.py").exists(), "the example has become part of the product: choose another"
    return path.replace("/", "."), source, registration, test


def load(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the source under the name that it would have."""
    file = folder / f"{name.rsplit('.', 1)[1]}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def members(protocol: type) -> set[str]:
    """What a class needs to follow a protocol."""
    methods = {name for name in vars(protocol) if not name.startswith("_")}
    return methods | set(protocol.__annotations__)


def run_tests(source: str, tmp_path: Path) -> int:
    """Run every test function of a piece of source; returns how many there were."""
    names: dict[str, Any] = {}
    exec(compile(source, "CONTRIBUTING.md", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    for test in tests:
        test(**({"tmp_path": tmp_path} if "tmp_path" in inspect.signature(test).parameters else {}))
    return len(tests)


def test_the_learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, source, registration, test = example("Add a learner")
    load(name, source, tmp_path, monkeypatch)
    for key, target in eval(f"{{{registration}}}").items():
        monkeypatch.setitem(LEARNERS, key, target)
        assert members(Learner) <= set(dir(get_learner(key)))
    assert run_tests(test, tmp_path) == 1


def test_the_click_segmenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, source, registration, test = example("Add a click segmenter")
    load(name, source, tmp_path, monkeypatch)
    for entry in eval(f"({registration})", {"SegmenterEntry": SegmenterEntry}):
        monkeypatch.setitem(SEGMENTERS, entry.name, entry)
        missing = members(ClickSegmenter) - set(dir(build_segmenter(entry.name, BackendSettings())))
        assert missing == set(), "the protocol asks for more than the example has"
    assert run_tests(test, tmp_path) == 1


def test_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, source, registration, test = example("Add a search policy")
    load(name, source, tmp_path, monkeypatch)
    names: dict[str, Any] = {}
    exec(registration, names)
    (policy,) = (value for value in names.values() if inspect.isclass(value))
    monkeypatch.setitem(POLICIES, policy.name, policy)
    assert members(SearchPolicy) <= set(dir(policy))
    assert run_tests(test, tmp_path) == 1
