"""Comments cite papers by author and year, which every reader can find."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("folder", ["clustering", "ml_backend", "sync", "bench", "docs"])
def test_no_reference_to_sections_of_an_unnamed_document(folder: str) -> None:
    files = [path for kind in ("*.py", "*.md") for path in (ROOT / folder).rglob(kind)]
    assert files
    assert [str(path.relative_to(ROOT)) for path in files if "§" in path.read_text()] == []
