"""Links lead somewhere; files, modules and functions that the pages name are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import FENCE, NAMES, ROOT, code_blocks, inline_codes

FOLDERS = ("clustering", "ml_backend", "sync", "bench", "tests", "docs")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def files_to_write(text: str) -> set[str]:
    """Files that a page tells its reader to make."""
    return set(re.findall(r"Save it as\s+`([^`]+)`", text))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_a_file_and_a_heading(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(there), f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_paths_named_in_the_docs_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    for code in set(inline_codes(text)) - files_to_write(text):
        if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./*-]*", code):
            found = list(ROOT.glob(code.rstrip("/")))
            assert found, f"{name}: {code}"


def test_every_room_stands_in_the_page_on_architecture() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    rooms = {
        f"`{path.parent.relative_to(ROOT)}/`"
        for package in FOLDERS[:3]
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert {room for room in rooms if room not in page} == set()


@pytest.mark.parametrize("name", NAMES)
def test_modules_and_functions_named_in_the_docs_exist(name: str) -> None:
    for code in inline_codes((ROOT / name).read_text()):
        dotted = re.match(rf"({'|'.join(FOLDERS[:4])})(\.\w+)+", code)
        if dotted and not code.endswith((".py", ".md")):
            assert exists(dotted[0].split(".")), f"{name}: {code}"


def exists(parts: list[str]) -> bool:
    """Whether a dotted name is a module, or a name at the top of one. Nothing is imported."""
    for depth in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:depth])
        path = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        if path.exists():
            rest = parts[depth:]
            return not rest or rest[0] in top_names(path)
    return False


def top_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef(name=found) | ast.ClassDef(name=found):
                names.add(found)
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=found)):
                names.add(found)
            case ast.ImportFrom(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases)
    return names


@pytest.mark.parametrize(
    ("dotted", "there"),
    [
        ("sync.settings.Settings", True),
        ("sync.settings.PROJECT_OPTIONS", True),
        ("clustering.search", True),
        ("clustering.search.POLICIES", True),
        ("sync.settings.frobnicate", False),
        ("sync.frobnicate.Settings", False),
    ],
)
def test_the_check_of_dotted_names(dotted: str, there: bool) -> None:
    assert exists(dotted.split(".")) is there


@pytest.mark.parametrize("name", NAMES)
def test_imports_in_examples_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    new = {path.removesuffix(".py").replace("/", ".") for path in files_to_write(text)}
    for language, block in code_blocks(text):
        for module, names in re.findall(r"^from ([\w.]+) import ([\w, ]+)$", block, re.MULTILINE):
            if language == "python" and module.split(".")[0] in FOLDERS and module not in new:
                for imported in names.split(", "):
                    assert exists([*module.split("."), imported]), f"{name}: from {module} import {imported}"
