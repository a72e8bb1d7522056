"""Open a database with SQLAlchemy; text is exchanged as UTF-8, whatever encoding it was created with."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, make_url

__all__ = ["open_engine"]

_SPEAK_UTF8: Final = {"client_encoding": "utf8"}
"""a cluster of Postgres made without a locale has SQL_ASCII, and its driver then gives bytes for text"""


def open_engine(url: str | URL, **options: Any) -> Engine:
    """``create_engine`` with text in UTF-8. Raises what it raises."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] = _SPEAK_UTF8
    return create_engine(parsed, **options)
