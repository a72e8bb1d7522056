"""The thread that writes the queue of answers to Label Studio while the backend runs.

It looks when an answer came in and every few seconds besides, so that what an earlier process left is written
too. The worker's looks do the same: whoever comes first takes a row.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Final

from ml_backend.errors import GroundswellError
from sync.review.flush import flush
from sync.review.outbox import Mode
from sync.review.review_project import installation_id
from sync.studio.protocol import StudioClient
from sync.web.access.shared import WebServices

__all__ = ["start_queue_thread"]

_log = logging.getLogger(__name__)
_LOOK_S: Final = 3.0
_FAILED_S: Final = 30.0


def start_queue_thread(web: WebServices) -> threading.Thread:
    """Start writing. The thread ends with its process: at any moment, since each write may be done again."""
    thread = threading.Thread(target=_run, args=(web,), name="answers", daemon=True)
    thread.start()
    return thread


def _run(web: WebServices) -> None:
    wait_s = 0.0
    while True:
        web.answered.wait(wait_s)
        web.answered.clear()
        wait_s = _LOOK_S
        try:
            store = web.store  # opened first: it may bring the id of the installation
            while flush(store, installation_id(web.settings.data_dir), partial(_client_of, web)).written:
                continue
        except GroundswellError as error:
            _log.warning("answers wait in the queue: %s", error)
            wait_s = _FAILED_S
        except Exception:
            _log.exception("writing the queue of answers failed")
            wait_s = _FAILED_S


def _client_of(web: WebServices, mode: Mode) -> StudioClient:
    return web.review_studio if mode == "questions" else web.studio
