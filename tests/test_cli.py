"""Every command is documented: help with an example, and a place in the docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from sync.cli import COMMANDS, build_app

ROOT = Path(__file__).resolve().parent.parent


def leaves(command: click.Command, name: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    children = getattr(command, "commands", None)
    if not children:
        return [(name, command)]
    return [leaf for key, child in children.items() for leaf in leaves(child, (*name, key))]


ALL = leaves(typer.main.get_command(build_app()))


@pytest.mark.parametrize(("name", "command"), ALL, ids=[" ".join(n) for n, _ in ALL])
def test_command_has_help_with_an_example(name: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(build_app(), [*name, "--help"])
    assert result.exit_code == 0, result.output
    line = "groundswell " + " ".join(name)
    assert line in (command.help or ""), f"`{line} --help` shows no example"


def test_the_page_of_commands_is_what_the_help_says() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import make_cli; print(make_cli.page(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (ROOT / "docs" / "cli.md").read_text() == done.stdout, "run `python docs/make_cli.py`"


@pytest.mark.parametrize("name", ["README.md", "docs/crowd.md", "docs/operations.md", "docs/annotators.md"])
def test_commands_and_options_named_in_the_docs_exist(name: str) -> None:
    known = {" ".join(n): {o for p in c.params for o in (*p.opts, *p.secondary_opts)} for n, c in ALL}
    found = re.findall(r"groundswell ([a-z][^`\n#]*(?:\\\n[^`\n#]*)*)", (ROOT / name).read_text())
    for text in found:
        words = text.replace("\\\n", " ").split()
        command = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
        if command is None:
            assert words[0] in {n.split()[0] for n in known} or "--" not in text, (
                f"{name}: groundswell {text}"
            )
            continue
        options = {w.split("=")[0] for w in words if w.startswith("--")}
        assert options <= known[command] | {"--help"}, f"{name}: groundswell {text}"


def test_every_registered_module_adds_a_command() -> None:
    top = {name[0] for name, _ in ALL}
    assert set(COMMANDS) <= top
