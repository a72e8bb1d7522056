"""Entry point for WSGI servers: the backend for Label Studio, with the pages for people.

    gunicorn sync.web.wsgi:app --bind 0.0.0.0:9090 --worker-class gthread --threads 8 --timeout 120

Settings come from the environment and from what ``groundswell up`` keeps in the data directory.
``ml_backend._wsgi:app`` is the backend alone, without pages and without a database.
"""

from __future__ import annotations

from ml_backend.logs import set_up_logging
from sync.installation import effective_settings
from sync.web.access.shared import services_of
from sync.web.app import create_web_app
from sync.web.artifacts_thread import start_artifacts_thread
from sync.web.review.queue_thread import start_queue_thread

_settings = effective_settings(None)
set_up_logging(_settings)

app = create_web_app(_settings)
start_queue_thread(services_of(app))
start_artifacts_thread(services_of(app))
app.extensions["groundswell"].announce_clicks()
