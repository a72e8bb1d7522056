"""Screenshots for the documents, taken by tests where ``GROUNDSWELL_SCREENSHOTS`` names a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["shot"]

_SHOTS = os.environ.get("GROUNDSWELL_SCREENSHOTS", "")


def shot(page: Page, name: str, *, full_page: bool = False) -> None:
    """Write what is on screen to ``<name>.png``; nothing where no folder is named."""
    if _SHOTS:
        Path(_SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(_SHOTS) / f"{name}.png"), full_page=full_page)
