"""docs/security.md names tests that exist, and some for every attacker."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/security.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ATTACKERS = ("Annotator", "Crowd worker", "Image host", "Network peer", "Stolen link")


@pytest.mark.parametrize(("file", "name"), NAMED.findall(PAGE))
def test_a_named_test_exists(file: str, name: str) -> None:
    body = ast.parse((ROOT / file).read_text()).body
    assert name in {node.name for node in body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("who", ATTACKERS)
def test_every_attacker_has_tests(who: str) -> None:
    section = PAGE.split(f"\n## {who}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 3
    assert all(NAMED.search(row) for row in rows)
