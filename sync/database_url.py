"""Passwords inside database URLs, whatever characters they consist of."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

__all__ = ["with_password"]

_URL: Final = re.compile(r"(?P<start>[\w+]+://[^:/@?]*)(?::(?P<password>.*))?@(?P<rest>[^@]*)", re.DOTALL)
"""A URL with a user: its password ends at the last @, so it may hold one itself."""
_ESCAPED: Final = re.compile(r"%[0-9A-Fa-f]{2}")


def with_password(url: str, password: str = "") -> str:
    """A SQLAlchemy URL whose password is ``password``, or the one that it holds, written as URLs want it.

    A password inside the URL may be escaped already: then it stays as it is. One with ``@`` or ``/`` works
    either way. A URL without a user is returned as it is.
    """
    address, mark, query = url.rpartition("?")
    if not mark or "@" in query:  # the question mark belongs to the password
        address, mark, query = url, "", ""
    found = _URL.fullmatch(address)
    if found is None:
        return url
    given = found["password"] or ""
    if password:
        escaped = quote(password, safe="")
    elif _ESCAPED.search(given) and not re.search("[@/]", given):
        escaped = given
    else:
        escaped = quote(given, safe="")
    between = f":{escaped}" if escaped else ""
    return f"{found['start']}{between}@{found['rest']}{mark}{query}"
