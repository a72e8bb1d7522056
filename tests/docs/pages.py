"""What a program can check on the pages: command lines, links, paths, variables and ``make`` targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md"  # tells of names that are gone
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1`*\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
SHELLS = ("", "sh", "bash", "console")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """One command of a page: its words after the program's name, and whether a reader would paste it."""

    words: tuple[str, ...]
    in_block: bool

    def __str__(self) -> str:
        return shlex.join(self.words)


def code_blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return [(found[2], found[3]) for found in FENCE.finditer(text)]


def inline_codes(text: str) -> list[str]:
    """Every piece of inline code outside fenced blocks; line breaks inside it count as one space."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCE.sub("", text))]


def command_lines(text: str, program: str) -> Iterator[CommandLine]:
    """Every call of ``program`` in the shell blocks and in the inline code of a page."""
    for language, block in code_blocks(text):
        if language == "text":  # the help of a command: an example may go over several lines
            lines = [" ".join(part.split()).removeprefix("Example: ") for part in block.split("\n\n")]
        else:
            lines = block.replace("\\\n", " ").splitlines() if language in SHELLS else []
        for line in lines:
            yield from (CommandLine(words, True) for words in _calls(line, program))
    for code in inline_codes(text):
        yield from (CommandLine(words, False) for words in _calls(code, program))


def _calls(line: str, program: str) -> Iterator[tuple[str, ...]]:
    """Calls of a program in one shell line: after ``$``, ``VARIABLE=value``, ``&&``, ``;`` or ``|``."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:  # a quotation mark without its twin: prose, not a command
        return
    calls: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("();<>|&"):
            calls.append([])
        else:
            calls[-1].append(word)
    wanted = program.split()
    for call in calls:
        start = 0
        while start < len(call) and (call[start] == "$" or re.match(r"[A-Z_]+=", call[start])):
            start += 1
        if call[start : start + len(wanted)] == wanted:
            yield tuple(call[start + len(wanted) :])
