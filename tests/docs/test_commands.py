"""Every command line in README and docs is one that the program understands."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer

from sync.cli import build_app
from tests.docs.pages import NAMES, ROOT, CommandLine, command_lines, inline_codes

CLI: Any = typer.main.get_command(build_app())
ELLIPSIS = "…"


def problem(line: CommandLine, command: Any = CLI) -> str:
    """What the real command line says against a documented one, or nothing.

    A line in a block must be complete. Inline code may name a command without its required options. ``…``
    stands for whatever a reader fills in.
    """
    words = [*line.words]
    complete = line.in_block and ELLIPSIS not in line.words
    while True:
        children = getattr(command, "commands", None)
        if children is None or not words or words[0].startswith("-"):
            break
        if words[0] not in children:
            return f"no command is called {words[0]!r}"
        command = children[words.pop(0)]
    valued = {o for p in command.params if not getattr(p, "is_flag", True) for o in p.opts}
    words = [w for before, w in zip(["", *words], words, strict=False) if w != ELLIPSIS or before in valued]
    if {"--help", "-h"} & set(words) or not (words or complete):
        return ""
    try:
        command.make_context(command.name or "groundswell", words)
    except Exception as error:  # the classes are private to typer
        if type(error).__name__ == "MissingParameter" and not complete:
            return ""
        if type(error).__name__ == "NoArgsIsHelpError":
            return "a command is missing"
        return str(error.format_message() if hasattr(error, "format_message") else error)
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_every_groundswell_command_line_is_understood(name: str) -> None:
    lines = command_lines((ROOT / name).read_text(), "groundswell")
    wrong = {f"groundswell {line}": said for line in lines if (said := problem(line))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`groundswell frobnicate`", "no command is called 'frobnicate'"),
        ("```sh\ngroundswell frobnicate\n```", "no command is called 'frobnicate'"),
        ("```sh\nGROUNDSWELL_CROWD=true groundswell up && groundswell frobnicate\n```", "frobnicate"),
        ("`groundswell models frobnicate`", "no command is called 'frobnicate'"),
        ("`groundswell status --frobnicate`", "--frobnicate"),
        ("`groundswell\nstatus --frobnicate`", "--frobnicate"),
        ("```sh\ngroundswell status \\\n    --frobnicate\n```", "--frobnicate"),
        ("```sh\ngroundswell init --labels car\n```", "title"),
        ("```sh\ngroundswell evaluate\n```", "missing"),
        ("`groundswell round --project three`", "integer"),
        ("`groundswell init --title Cars`", ""),
        ("```text\nShow it.\n\nExample: groundswell status\n--frobnicate\n```", "--frobnicate"),
        ("```sh\ngroundswell init --title Cars …\n```", ""),
        ("```sh\ngroundswell status  # what runs --frobnicate\n```", ""),
        ("`groundswell status --json`", ""),
    ],
)
def test_the_check_finds_what_is_wrong(text: str, expected: str) -> None:
    (*_, line) = command_lines(text, "groundswell")
    said = problem(line)
    assert expected in said if expected else said == ""


def _options(command: Any) -> set[str]:
    own = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
    return own.union(*(_options(child) for child in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("name", NAMES)
def test_options_named_alone_belong_to_some_command(name: str) -> None:
    alone = {
        re.split(r"[\s=,]", code)[0]
        for code in inline_codes((ROOT / name).read_text())
        if re.match(r"--[a-z]", code)
    }
    assert alone - _options(CLI) - {"--help"} == set()


@pytest.mark.parametrize("name", NAMES)
def test_benchmarks_named_in_the_docs_exist_with_their_options(name: str) -> None:
    for line in command_lines((ROOT / name).read_text(), "python -m"):
        module, *words = line.words
        source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
        if "add_arguments(parser)" in source:  # what the benchmarks of learners share
            source += (ROOT / "bench" / "detection_set.py").read_text()
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{name}: python -m {line}"


@pytest.mark.parametrize("name", [*NAMES, ".ci/run"])
def test_make_targets_named_in_the_docs_exist(name: str) -> None:
    path = ROOT / name
    text = path.read_text() if path.suffix == ".md" else f"```sh\n{path.read_text()}\n```"
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in command_lines(text, "make"):
        named = {word for word in line.words if re.fullmatch(r"[a-z][a-z-]*", word)}
        assert named <= targets, f"{name}: make {line}"
