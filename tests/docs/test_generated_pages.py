"""Pages that are written from the code are up to date, and the code says enough to write them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from sync.settings import Settings
from tests.docs.pages import NAMES, ROOT

PAGES = {"cli.md": "make_cli", "settings.md": "make_settings"}


@pytest.mark.parametrize(("page", "module"), PAGES.items())
def test_a_generated_page_is_up_to_date(page: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; print({module}.page(), end='')"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (ROOT / "docs" / page).read_text() == done.stdout, "run `make docs`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_means(name: str) -> None:
    assert Settings.model_fields[name].description


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_named_in_the_docs_is_in_the_table(name: str) -> None:
    known = set(re.findall(r"^\| `(GROUNDSWELL_\w+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    assert set(re.findall(r"GROUNDSWELL_[A-Z][A-Z_]*[A-Z]", (ROOT / name).read_text())) <= known
