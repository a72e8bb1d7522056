"""Requests to the app of a ``label_studio_ml`` package that serves Groundswell; prints the answers as JSON.

Usage: python -m tests.ml_backend.label_studio_ml_driver FOLDER. Which package it is, PYTHONPATH decides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from label_studio_ml.api import init_app

from ml_backend.artifacts.inbox import last_notice
from ml_backend.label_studio_ml_adapter import GroundswellBackend
from tests.ml_backend.served import CONFIG, CONTEXT, KEY, Backend, FakeClicks, basic, task

OTHER_KEY = "3.1795300000"


def main(folder: Path) -> dict[str, Any]:
    backend = Backend(folder)
    backend.publish()
    backend.fill_pool([1])
    clicks = FakeClicks(lambda: {"result": [{"id": "a"}], "score": 0.5, "model_version": "classical"})
    backend.services._clicks = clicks  # type: ignore[assignment]
    GroundswellBackend.services = backend.services
    client = init_app(
        model_class=GroundswellBackend, basic_auth_user="ls", basic_auth_pass="pw"
    ).test_client()

    def post(path: str, body: dict[str, Any], user: str = "ls") -> dict[str, Any]:
        reply = client.post(path, json=body, headers=basic(user, "pw"))
        return {"status": reply.status_code, "body": reply.get_json(silent=True)}

    def predict(*tasks: Any, key: str = KEY, context: Any = None) -> dict[str, Any]:
        params = {"login": None, "password": None, "context": context}
        body = {"tasks": list(tasks), "project": key, "label_config": CONFIG, "params": params}
        return post("/predict", body)

    def hook(key: str, created_at: str) -> dict[str, Any]:
        project = {"id": int(key), "created_at": created_at, "label_config": CONFIG}
        return post("/webhook", {"action": "ANNOTATION_CREATED", "project": project})

    answers = {
        "health": client.get("/health", headers=basic("ls", "pw")).status_code,
        "stranger": post("/setup", {}, user="me"),
        "setup": post("/setup", {"project": KEY, "schema": CONFIG, "extra_params": None}),
        "setup of another project": post("/setup", {"project": OTHER_KEY, "schema": CONFIG}),
        "stored": predict(task(1)),
        "one without an answer": predict(task(1), task(2, image="/data/upload/1/gone.png")),
        "another project": predict(task(1), key=OTHER_KEY),
        "click": predict(task(1), context=CONTEXT),
        "webhook": hook("3", "2026-11-20T21:23:23.930521Z"),
        "noted": last_notice(backend.settings.data_dir, 3) is not None,
        "webhook of another project": hook("3", "2026-11-21T23:33:20.123456Z"),
    }
    backend.publish("r2-bbbb")
    answers["setup after training"] = post("/setup", {"project": KEY, "schema": CONFIG})
    answers["clicks"] = len(clicks.calls)
    return answers


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
