"""An error as one short line, for places that have room for no more: a status line, a cell of a table.

Label Studio shows people what stands in the status line of an answer. What they can do about the error
matters most there, so it is never what is cut off.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["error_line", "shortened"]

_ADDRESS: Final = re.compile(r"\b[a-z][a-z0-9+]*://[^\s'\"<>]+|(?<![\w/])/[^\s'\"<>]+/[^\s'\"<>]+")
_LONG_ADDRESS: Final = 40
_NAME: Final = 24
"""characters kept of the end of an address, where the name of the file stands"""
_HINT_SHARE: Final = 0.65


def error_line(message: str, *, field: str = "", hint: str = "", limit: int = 200) -> str:
    """Message and hint in at most ``limit`` characters.

    Long addresses are shortened. If that is not enough, the hint comes first, and the message is cut.
    """
    what = _short_addresses(f"{field}: {message}" if field else message)
    hint = _short_addresses(hint)
    whole = ". ".join(part for part in (what, hint) if part)
    if len(whole) <= limit or not hint:
        return _cut(whole, limit)
    hint = _cut(hint, int(_HINT_SHARE * limit))
    return f"{hint}. {_cut(what, limit - len(hint) - 2)}"


def shortened(text: str, limit: int) -> str:
    """A text in at most ``limit`` characters: its addresses are shortened first, then it is cut."""
    return _cut(_short_addresses(text), limit)


def _short_addresses(text: str) -> str:
    return _ADDRESS.sub(lambda found: _short_address(found.group()), text)


def _short_address(address: str) -> str:
    """``https://host/.../name``, without what stands behind a question mark: it may hold a signature."""
    if len(address) <= _LONG_ADDRESS:
        return address
    path = re.split(r"[?#]", address, maxsplit=1)[0].rstrip("/.,;:)")
    start = re.match(r"[a-z][a-z0-9+]*://[^/]*", path)
    head = start.group()[:_NAME] if start else ""
    return f"{head}/...{path[len(head) :][-_NAME:]}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(limit - 3, 0)].rstrip() + "..."
