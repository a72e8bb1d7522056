"""Logs of backend and worker: lines of text for people, or one JSON object a line for programs.

No secret reaches a log: the values of secret settings are replaced by ``***``, and so are credentials in
headers and signatures in addresses, also inside tracebacks.

JSON lines have the fields ``project``, ``round`` and ``task`` where a line speaks of one (``log_fields``).
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from typing import Final, Literal, TextIO
from urllib.parse import quote, unquote

from pydantic import SecretStr
from pythonjsonlogger.json import JsonFormatter

from ml_backend.log_fields import add_log_fields
from ml_backend.settings import BackendSettings

__all__ = ["LogFormat", "set_up_logging"]

LogFormat = Literal["text", "json"]

_HIDDEN: Final = "***"
_SHORTEST: Final = 4
"""Shorter secrets are not replaced: they would also match ordinary words."""
_CREDENTIALS: Final = re.compile(r"\b(Bearer|Basic|Token)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_SIGNATURES: Final = re.compile(
    r"([?&](?:sig|token|access_token|signature|x-(?:amz|goog)-(?:signature|credential|security-token))=)"
    r"[^&\s\"'<>]+",
    re.IGNORECASE,
)
_PASSWORD: Final = re.compile(r"://[^:/@]*:(.+)@", re.DOTALL)
"""The password of an address, which ends at the last @."""
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FIELDS: Final = {"asctime": "time", "levelname": "level", "name": "logger"}


def set_up_logging(
    settings: BackendSettings, *, level: str | None = None, stream: TextIO | None = None
) -> None:
    """Send all logs of this process to ``stream`` (standard error) in the format of the settings.

    ``level`` counts instead of that of the settings where it is given.
    """
    plain: logging.Formatter
    if settings.log_format == "json":
        plain = JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=_FIELDS)
    else:
        plain = logging.Formatter(_TEXT)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Redacting(plain, _secrets_of(settings)))
    logging.basicConfig(level=level or settings.log_level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address that is called


class _Redacting(logging.Formatter):
    """Another formatter's lines without secrets."""

    def __init__(self, plain: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._plain = plain
        forms = {
            form for secret in secrets for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
        }
        known = sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(self._plain, JsonFormatter):  # which writes all attributes that it does not know
            add_log_fields(record)
        line = self._plain.format(record)
        if self._known is not None:
            line = self._known.sub(_HIDDEN, line)
        return _SIGNATURES.sub(rf"\1{_HIDDEN}", _CREDENTIALS.sub(rf"\1 {_HIDDEN}", line))


def _secrets_of(settings: BackendSettings) -> set[str]:
    """All secret values of the settings, and the passwords inside those that are addresses."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if not isinstance(value, SecretStr) or not value.get_secret_value():
            continue
        text = value.get_secret_value()
        found.add(text)
        for whole in _PASSWORD.findall(text):
            found |= {whole, unquote(whole), quote(unquote(whole), safe="")}
        if name.endswith("password"):
            found.add(quote(text, safe=""))
    return found
