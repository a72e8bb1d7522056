"""Bodies that pages post: JSON of limited size, from our own pages only.

A form or a link of another site can send neither the content type nor the header, and a script of another
site may not (no route allows cross-origin requests). So a person's cookie is of no use to another site.
"""

from __future__ import annotations

import json
from typing import Any, Final

from flask import request

from ml_backend.errors import BadInput
from sync.web.access.errors import TooLarge

__all__ = ["MAX_BODY", "posted_json"]

MAX_BODY: Final = 256 * 1024
"""bytes of a posted body at most"""
_HEADER: Final = "X-Groundswell"


def posted_json(*, limit: int = MAX_BODY) -> dict[str, Any]:
    """The JSON object that a page posted.

    Raises BadInput for another content type, a missing header or no JSON object; TooLarge beyond ``limit``.
    """
    if request.mimetype != "application/json":
        raise BadInput("the body must be JSON", field="Content-Type", hint="Send application/json")
    if request.headers.get(_HEADER) != "1":
        raise BadInput("only pages of Groundswell may post here", field=_HEADER, hint=f"Send {_HEADER}: 1")
    body = b""
    if (request.content_length or 0) <= limit:
        body = request.stream.read(limit + 1)  # a chunked body tells no length
    if (request.content_length or len(body)) > limit:
        raise TooLarge(f"the body is longer than {limit} bytes", hint="Send fewer answers at once")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise BadInput("the body is not JSON", field="body") from None
    if not isinstance(found, dict):
        raise BadInput("the body must be a JSON object", field="body")
    return found
