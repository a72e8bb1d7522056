"""Write docs/settings.md from the settings themselves: ``make docs``. A test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from ml_backend.settings import BackendSettings
from sync.settings import CROWD_DEFAULTS, PROJECT_OPTIONS, Settings

PAGE = Path(__file__).with_name("settings.md")
KINDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret text",
}
INTRODUCTION = """\
# Settings

Written by `make docs` from the settings themselves.

Every setting is an environment variable with the prefix `GROUNDSWELL_`. `groundswell up` sets what it needs
by itself: addresses, the token and the secrets. Lists and objects are written as JSON, for example
`GROUNDSWELL_EXPERTS='[3, 8]'`.

A setting marked *yes* under *per project* may also be given to one project alone. The name is then in small
letters: `groundswell init --title Cars --labels car --option min_finished=10`. A project's own value wins.
Later, `groundswell project set 3 min_finished=8` changes it, `--unset min_finished` takes it out again, and
`groundswell project show 3` says where each value comes from.

## A settings file

`groundswell.toml` in the working directory may hold settings too, or the file that `GROUNDSWELL_CONFIG`
names (empty: none). Names are in small letters and without the prefix; objects are tables. Relative paths
count from the folder of the file.

```toml
data_dir = "data"
retrain_after = 10
experts = [3, 8]

[policy_options]
purity = 0.95
```

The order is: what a command is given, the environment, the file, the default. A key that is no setting is
refused, and so is a secret: such files are shared, so secrets belong in the environment. An error names the
place that holds the wrong value.

## One setting that changes others

`GROUNDSWELL_CROWD=true` changes the defaults of some others: {crowd}.
"""

OUTSIDE = """\
## Only in the environment

| variable | value | meaning |
| --- | --- | --- |
| `GROUNDSWELL_CONFIG` | path | the settings file, instead of `groundswell.toml` |
| `GROUNDSWELL_API_KEY` | secret text | the same as `--api-key` |
| `GROUNDSWELL_REVIEW_API_KEY` | secret text | the same as `--review-api-key` |
| `GROUNDSWELL_STUDIO_VENV` | path | virtual environment that holds the Label Studio server |
"""


def page() -> str:
    """The page as it should be."""
    own = [name for name in Settings.model_fields if name not in BackendSettings.model_fields]
    crowd = ", ".join(f"`{variable(name)}` to {value}" for name, value in CROWD_DEFAULTS.items())
    return "\n".join(
        [
            INTRODUCTION.format(crowd=crowd),
            *table("Backend, worker and command line", list(BackendSettings.model_fields)),
            *table("Worker and command line", own),
            OUTSIDE,
        ]
    )


def table(title: str, names: list[str]) -> list[str]:
    """One section: heading and a row per setting."""
    rows = [setting_row(name, Settings.model_fields[name]) for name in names]
    head = ["| variable | value | default | per project | meaning |", "| --- | --- | --- | --- | --- |"]
    return [f"## {title}", "", *head, *rows, ""]


def setting_row(name: str, field: FieldInfo) -> str:
    """One setting as a row of the table."""
    per_project = "yes" if name in PROJECT_OPTIONS else ""
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{variable(name)}` | {kind(field.annotation)} | {default(field)} | {per_project} | {meaning} |"


def variable(name: str) -> str:
    return f"GROUNDSWELL_{name.upper()}"


def kind(annotation: Any) -> str:
    """What a reader has to write, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(kind(part) for part in parts if part is not type(None))
    if origin is list:
        return "JSON list"
    if origin is dict:
        return "JSON object"
    return KINDS[annotation]


def default(field: FieldInfo) -> str:
    """The default as a reader would write it; large sizes in the units of a file manager."""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in ("", None, [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int) and value >= 1024**2 and value % 1024**2 == 0:
        size = f"{value // 1024**3} GiB" if value % 1024**3 == 0 else f"{value // 1024**2} MiB"
        return f"`{value}` ({size})"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"wrote {PAGE}\n")
