"""Addresses of servers in the settings: checked, and brought into one form."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

from ml_backend.errors import BadInput

__all__ = ["OptionalServerAddress", "ServerAddress", "address_option", "server_address"]

_FORM: Final = "no address of a server, such as https://labels.example or http://10.0.0.5:8080"


def server_address(text: str) -> str:
    """The address without spaces around it and slashes at its end, scheme and host in small letters.

    Addresses are compared, joined to paths, logged and shown to people. So a user name and a password are
    refused in them. Raises ValueError saying what is wrong; it repeats nothing of the address, in which a
    password may stand.
    """
    text = text.strip()
    if not text:
        raise ValueError(f"{_FORM}: it is empty")
    if not text.isprintable() or " " in text:
        raise ValueError(f"{_FORM}: it holds a space or a control character")
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:
        raise ValueError(f"{_FORM}: its host cannot be read") from None
    if parts.scheme not in ("http", "https"):  # urlsplit gives it in small letters
        raise ValueError(f"{_FORM}: it does not begin with http:// or https://")
    if "@" in text:
        raise ValueError(f"{_FORM}: a user name and a password must not stand in it")
    if "?" in text or "#" in text:
        raise ValueError(f"{_FORM}: a ? and a # must not stand in it")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"{_FORM}: the port is none from 1 to 65535 (IPv6 addresses stand in brackets)")
    if not host:
        raise ValueError(f"{_FORM}: it names no host")
    name = f"[{host}]" if ":" in host else host
    place = name if port is None else f"{name}:{port}"
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


def _address_or_nothing(text: str) -> str:
    return server_address(text) if text.strip() else ""


ServerAddress = Annotated[str, AfterValidator(server_address)]
"""A setting that is the address of a server."""

OptionalServerAddress = Annotated[str, AfterValidator(_address_or_nothing)]
"""The same, or empty."""


def address_option(text: str, name: str) -> str:
    """``server_address`` of an option of a command, "" where it was not given. Raises BadInput naming it."""
    try:
        return server_address(text) if text else ""
    except ValueError as error:
        raise BadInput(
            str(error), field=name, hint=f"It was given as an option: --{name.replace('_', '-')}"
        ) from None
