"""How our HTTP clients check certificates: one context for all of them."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

import httpx

__all__ = ["tls_context"]


def tls_context() -> ssl.SSLContext:
    """The context that httpx would make for each client anew; may be shared by clients and threads.

    Reading the bundle of certificates takes some 60 ms of a core, and a look of the worker makes many
    clients. Another bundle (``SSL_CERT_FILE`` or ``SSL_CERT_DIR``) gives another context; what is in a bundle
    is read once per process.
    """
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    return httpx.create_ssl_context()
