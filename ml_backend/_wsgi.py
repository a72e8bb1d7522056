"""Entry point for WSGI servers: ``gunicorn ml_backend._wsgi:app``.

Settings come from the environment (``GROUNDSWELL_…``, see ``ml_backend.settings``)::

    export GROUNDSWELL_DATA_DIR=/data GROUNDSWELL_STUDIO_URL=http://studio.example:8080
    export GROUNDSWELL_STUDIO_TOKEN=…
    gunicorn ml_backend._wsgi:app --bind 0.0.0.0:9090 --worker-class gthread --threads 8 --timeout 120

* One worker per GPU, several threads: models and embeddings are shared by the threads of a process.
* No ``--preload`` with CUDA, and no ``--max-requests``: a restart loads models again.
* Several workers on CPUs share the disk tiers; set ``PROMETHEUS_MULTIPROC_DIR`` to an empty folder for
  ``/metrics``.

``python -m ml_backend._wsgi`` starts the development server on port 9090.
"""

from __future__ import annotations

import logging
import os

from ml_backend.app import create_app

logging.basicConfig(
    level=os.environ.get("GROUNDSWELL_LOG_LEVEL", "INFO"),
    format="%(asctime)s %(levelname)s %(name)s: %(message)s",
)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every address, signatures included

app = create_app()

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "9090")), threaded=True)
