"""Settings from a file: ``groundswell.toml`` in the working directory, or another by GROUNDSWELL_CONFIG.

Names are those of the settings in small letters; settings that are objects are tables. The environment wins.
Secrets are refused: such files are shared and kept under version control. Relative paths count from the
folder of the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from ml_backend.errors import BadInput

__all__ = ["CONFIG_VARIABLE", "PREFIX", "config_path", "read_config", "source_of"]

PREFIX: Final = "GROUNDSWELL_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
_NAME: Final = "groundswell.toml"


def config_path() -> Path | None:
    """The file that counts now, None when there is none. GROUNDSWELL_CONFIG set to nothing means none."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    here = Path(_NAME)
    return here if here.is_file() else None


def read_config(secrets: Collection[str] = (), paths: Collection[str] = ()) -> dict[str, Any]:
    """The settings of the file by name, empty when there is no file.

    ``secrets`` are names that are refused, ``paths`` names whose values are paths.

    Raises BadInput, naming file and key, when the file cannot be read or holds a secret.
    """
    path = config_path()
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}",
            field=CONFIG_VARIABLE,
            hint=f"Name another file with {CONFIG_VARIABLE}, or unset it",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path} is not valid TOML: {error}",
            field=path.name,
            hint='Lines look like: policy = "certified"',
        ) from error
    told = sorted(set(values) & set(secrets))
    if told:
        raise BadInput(
            f"{path} holds a secret, and such files are shared",
            field=f"{path.name}: {told[0]}",
            hint=f"Set {PREFIX}{told[0].upper()} in the environment instead, and take it out of the file",
        )
    for name in set(values) & set(paths):
        if isinstance(values[name], str):
            values[name] = str(path.absolute().parent / values[name])
    return values


def source_of(name: str) -> str:
    """Where the value of a setting comes from: ``environment``, the path of the file, or ``default``."""
    if f"{PREFIX}{name.upper()}" in {variable.upper() for variable in os.environ}:
        return "environment"
    path = config_path()
    if path is not None and name in read_config():
        return str(path)
    return "default"
