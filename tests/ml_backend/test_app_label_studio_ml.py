"""Groundswell in the app of the ``label-studio-ml`` package.

The requests run in a process of their own, against a copy of the package's contract that lies with the tests.
They also run against the package itself when it is installed, or when GROUNDSWELL_LABEL_STUDIO_ML names a
folder with its source.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "tests" / "fakes" / "label_studio_ml_contract"


def package_path(kind: str) -> str:
    """What PYTHONPATH needs for a kind of package; skips the test when it is not there."""
    if kind == "contract":
        return str(CONTRACT)
    source = os.environ.get("GROUNDSWELL_LABEL_STUDIO_ML", "")
    if source:
        return source
    if importlib.util.find_spec("label_studio_ml") is None:
        pytest.skip("label-studio-ml is not installed and GROUNDSWELL_LABEL_STUDIO_ML names no source of it")
    return ""


@pytest.fixture(scope="module", params=["contract", "package"])
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    first = package_path(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    path = [x for x in (first, str(ROOT), os.environ.get("PYTHONPATH", "")) if x]
    done = subprocess.run(
        [sys.executable, "-m", "tests.ml_backend.label_studio_ml_driver", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "MODEL_DIR": str(folder / "package")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_setup_tells_the_version_of_now(answers: dict[str, Any]) -> None:
    assert answers["health"] == 200
    assert answers["setup"] == {"status": 200, "body": {"model_version": "r1-aaaa"}}
    assert answers["setup after training"] == {"status": 200, "body": {"model_version": "r2-bbbb"}}


def test_predictions_have_the_form_of_the_contract(answers: dict[str, Any]) -> None:
    (prediction,) = answers["stored"]["body"]["results"]
    assert set(prediction) == {"result", "score", "model_version"}
    assert (prediction["score"], prediction["model_version"]) == (0.25, "r1-aaaa")
    assert [region["type"] for region in prediction["result"]] == ["brushlabels"]
    assert answers["one without an answer"]["status"] == 200
    assert answers["one without an answer"]["body"]["results"] == [prediction, []]


def test_clicks_reach_the_click_service(answers: dict[str, Any]) -> None:
    assert answers["click"]["body"]["results"] == [
        {"result": [{"id": "a"}], "score": 0.5, "model_version": "classical"}
    ]
    assert answers["clicks"] == 1


def test_a_webhook_leaves_a_note_and_is_answered_with_201(answers: dict[str, Any]) -> None:
    assert answers["webhook"]["status"] == 201
    assert answers["webhook"]["body"]["result"] == {"status": "noted"}
    assert answers["noted"]


@pytest.mark.parametrize(
    "name", ["another project", "setup of another project", "webhook of another project"]
)
def test_another_project_of_the_same_number_gets_an_error(answers: dict[str, Any], name: str) -> None:
    assert answers[name]["status"] == 500
    assert "r1-aaaa" not in json.dumps(answers[name]["body"])


def test_the_packages_own_password_check_stays(answers: dict[str, Any]) -> None:
    assert answers["stranger"]["status"] == 401
