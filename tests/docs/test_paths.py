"""The paths in docs/architecture.md run through the code as the page says, and forward only."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
LINE = re.compile(r"^(?P<indent> *)(?P<file>[\w/]+\.py)\s+(?P<name>[\w.]+)(\s+<- (?P<handed>[\w.]+))?$")


@dataclass(frozen=True)
class Stop:
    """One line of a path: a function, how deep it is called, and what it was handed by the stop before."""

    depth: int
    file: str
    name: str
    handed: str


def read_paths(text: str) -> dict[str, list[Stop]]:
    """Stops of each path: a heading ``### …`` below ``## Paths`` and the fenced block that follows it."""
    section = text.split("\n## Paths\n", 1)[1].split("\n## ", 1)[0]
    found = {}
    for title, block in re.findall(r"### ([^\n]+)\n.*?```\n(.*?)```", section, re.DOTALL):
        stops = []
        for line in block.splitlines():
            match = LINE.match(line)
            assert match is not None, f"{title}: cannot read {line!r}"
            stops.append(Stop(len(match["indent"]), match["file"], match["name"], match["handed"] or ""))
        found[title] = stops
    return found


PATHS = read_paths(PAGE.read_text())


def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


def definition(stop: Stop) -> ast.FunctionDef | ast.ClassDef:
    """The function (``name`` or ``Class.name``; also one inside another function) or class of a stop."""
    body: ast.AST = tree(stop.file)
    for part in stop.name.split("."):
        found = [
            node
            for node in ast.walk(body)
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        ]
        assert found, f"{stop.file} has no {stop.name}"
        body = found[0]
    assert isinstance(body, ast.FunctionDef | ast.ClassDef)
    return body


def words(node: ast.AST) -> set[str]:
    """Names and attributes that occur in a piece of code."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return names | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def callers(stops: list[Stop], place: int) -> list[Stop]:
    """The stops that lead to one, the nearest first: each is the nearest above that is less indented."""
    found: list[Stop] = []
    depth = stops[place].depth
    for stop in reversed(stops[:place]):
        if stop.depth < depth:
            found.append(stop)
            depth = stop.depth
    return found


def below(stops: list[Stop], place: int) -> list[Stop]:
    """A stop and all that it leads to."""
    rest = stops[place + 1 :]
    end = next((i for i, stop in enumerate(rest) if stop.depth <= stops[place].depth), len(rest))
    return [stops[place], *rest[:end]]


def test_the_four_paths_are_there() -> None:
    key = "Key on the review page → annotation"
    assert list(PATHS) == ["Click → mask", "Webhook → push", key, "Answer → export"]
    assert all(len(stops) >= 6 for stops in PATHS.values())


@pytest.mark.parametrize("title", PATHS)
def test_every_stop_is_called_by_the_one_above_it(title: str) -> None:
    stops = PATHS[title]
    for place, stop in enumerate(stops):
        definition(stop)
        above = callers(stops, place)
        if above:
            called = words(definition(above[0]))
            assert stop.name.split(".")[-1] in called, f"{above[0].name} never calls {stop.name}"
        elif place > 0:
            # another process goes on here: it must pick up what was left behind
            assert any(other.handed for other in below(stops, place)), f"{title}: nobody calls {stop.name}"


@pytest.mark.parametrize("title", PATHS)
def test_what_is_handed_over_is_known_on_both_sides(title: str) -> None:
    stops = PATHS[title]
    for place, stop in enumerate(stops):
        if stop.handed:
            word = stop.handed.split(".")[-1]
            assert word in words(definition(stop)), f"{stop.name} never mentions {word}"
            before = [words(definition(other)) for other in stops[:place]]
            assert any(word in names for names in before), f"nobody before {stop.name} mentions {word}"


@pytest.mark.parametrize("title", PATHS)
def test_paths_go_forward_only(title: str) -> None:
    """No file imports one that leads to it."""
    stops = PATHS[title]
    for place, stop in enumerate(stops):
        imported = {
            node.module
            for node in ast.walk(tree(stop.file))
            if isinstance(node, ast.ImportFrom) and node.module
        }
        for caller in callers(stops, place):
            module = caller.file.removesuffix(".py").replace("/", ".")
            assert module not in imported, f"{title}: {stop.file} imports {caller.file}, which leads to it"
