"""Errors as one line: the hint stays, whatever has to go."""

from __future__ import annotations

import pytest

from ml_backend.error_lines import error_line, shortened

ADDRESS = "https://pictures.example.org/a/very/long/way/down/to/scans/2026/week-07/slide_0042.jpg?X-Sig=0123"


def test_what_fits_stays_as_it_is() -> None:
    line = error_line("the click lies outside the image", field="context.result", hint="Click inside it")
    assert line == "context.result: the click lies outside the image. Click inside it"
    assert error_line("internal error") == "internal error"


def test_addresses_are_shortened_before_anything_is_cut() -> None:
    line = error_line(
        f"{ADDRESS} answers 404 (Not Found)", field="data.image", hint="Is the file still there?"
    )
    assert line == (
        "data.image: https://pictures.example/...6/week-07/slide_0042.jpg answers 404 (Not Found). "
        "Is the file still there?"
    )
    assert "X-Sig" not in line
    path = shortened("/srv/data/projects/scanner/2026/calendar-week-07/slide_0042.tiff is missing", 80)
    assert path == "/...-week-07/slide_0042.tiff is missing"


@pytest.mark.parametrize("hint_length", [20, 120, 400])
def test_a_long_message_is_cut_and_the_hint_comes_first(hint_length: int) -> None:
    hint = "Set GROUNDSWELL_ALLOW_IMAGE_DIRS. ".ljust(hint_length, "h")
    line = error_line("m" * 500, field="data.image", hint=hint, limit=200)
    assert len(line) <= 200
    assert line.startswith(hint[:100])
    assert "data.image: mmm" in line
    assert line.endswith("...")
