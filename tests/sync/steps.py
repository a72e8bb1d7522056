"""Run a step on an opened project: what it needs is taken from the project by the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import ParamSpec, TypeVar

from sync.rounds.project import OpenProject

P = ParamSpec("P")
R = TypeVar("R")
PARTS = [field.name for field in fields(OpenProject)]


def step(function: Callable[..., R], project: OpenProject, /, *rest: object, **options: object) -> R:
    """``function(project.db, project.studio, …, *rest, **options)`` with the parts that it asks for."""
    parameters = inspect.signature(function).parameters.values()
    asked = [each.name for each in parameters if each.name in PARTS and each.kind is not each.KEYWORD_ONLY]
    return function(*(getattr(project, name) for name in asked), *rest, **options)
