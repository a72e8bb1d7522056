"""The code on the page about scripts is that of the examples, which tests/studio runs."""

from __future__ import annotations

import textwrap

from tests.docs.pages import ROOT, code_blocks

PAGE = ROOT / "docs" / "guides" / "sdk.md"
EXAMPLES = [path.read_text().splitlines() for path in sorted((ROOT / "examples").glob("*.py"))]


def stands_in(excerpt: str, lines: list[str]) -> bool:
    """Whether the lines of an excerpt follow each other in a file, all with the same indentation before."""
    wanted = textwrap.dedent(excerpt).strip("\n")
    length = len(wanted.splitlines())
    return any(
        textwrap.dedent("\n".join(lines[start : start + length])) == wanted
        for start in range(len(lines) - length + 1)
    )


def test_every_piece_of_python_is_cut_from_an_example() -> None:
    pieces = [block for language, block in code_blocks(PAGE.read_text()) if language == "python"]
    assert len(pieces) >= 10
    assert [piece for piece in pieces if not any(stands_in(piece, lines) for lines in EXAMPLES)] == []


def test_the_check_finds_changed_code() -> None:
    lines = ["def f():", "    a = 1", "    if a:", "        b = 2"]
    assert stands_in("a = 1\nif a:\n    b = 2\n", lines)
    assert not stands_in("a = 1\nif a:\n    b = 3\n", lines)
    assert not stands_in("a = 1\nb = 2\n", lines)
