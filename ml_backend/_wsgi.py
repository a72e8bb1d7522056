"""Entry point for WSGI servers, for the backend alone: ``gunicorn ml_backend._wsgi:app``.

``sync.web.wsgi:app`` serves the same routes with the pages for people on top.

Settings come from the environment (``GROUNDSWELL_…``, see ``ml_backend.settings``)::

    export GROUNDSWELL_DATA_DIR=/data GROUNDSWELL_STUDIO_URL=http://studio.example:8080
    export GROUNDSWELL_STUDIO_TOKEN=…
    gunicorn ml_backend._wsgi:app --bind 0.0.0.0:9090 --worker-class gthread --threads 8 --timeout 120

* One worker per GPU, several threads: models and embeddings are shared by the threads of a process.
* No ``--preload`` with CUDA, and no ``--max-requests``: a restart loads models again.
* Several workers on CPUs share what is cached on disk. Set ``PROMETHEUS_MULTIPROC_DIR`` to an empty folder,
  so that ``/metrics`` adds them up.
* ``GROUNDSWELL_LOG_FORMAT=json`` logs one JSON object a line.

``python -m ml_backend._wsgi`` starts the development server on port 9090.
"""

from __future__ import annotations

import os

from ml_backend.app import create_app
from ml_backend.logs import set_up_logging
from ml_backend.settings import BackendSettings

_settings = BackendSettings()
set_up_logging(_settings)

app = create_app(_settings)
app.extensions["groundswell"].announce_clicks()

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "9090")), threaded=True)
