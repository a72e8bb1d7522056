"""Every command has help with an example."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sync.cli import COMMANDS, build_app


def runnable(command: Any, name: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Commands that do something by themselves: all but the groups that only hold others."""
    children = getattr(command, "commands", {})
    inner = [found for key, child in children.items() for found in runnable(child, (*name, key))]
    return [(name, command), *inner] if not children or command.invoke_without_command else inner


ALL = runnable(typer.main.get_command(build_app()))


@pytest.mark.parametrize(("name", "command"), ALL, ids=[" ".join(n) for n, _ in ALL])
def test_command_has_help_with_an_example(name: tuple[str, ...], command: Any) -> None:
    result = CliRunner().invoke(build_app(), [*name, "--help"])
    assert result.exit_code == 0, result.output
    line = "groundswell " + " ".join(name)
    assert line in (command.help or ""), f"`{line} --help` shows no example"


SERVICES = {("up",), ("serve",)}
"""run until they are stopped, and print no result"""


@pytest.mark.parametrize(("name", "command"), ALL, ids=[" ".join(n) for n, _ in ALL])
def test_a_command_that_prints_a_result_prints_it_as_json_too(name: tuple[str, ...], command: Any) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) == (name not in SERVICES)


def test_every_registered_module_adds_a_command() -> None:
    top = {name[0] for name, _ in ALL}
    assert set(COMMANDS) <= top


def test_the_release_is_told() -> None:
    result = CliRunner().invoke(build_app(), ["--version"])
    assert result.exit_code == 0
    assert result.output == f"groundswell {version('groundswell')}\n"
