"""Training in a child process: what crosses the border, and what happens when either side dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.base import Evaluation, TrainReport, TrainSpec
from ml_backend.learners.child_process import training_environment
from ml_backend.learners.training_job import dump_report, dump_spec, load_report, load_spec, run_training

from .shapes import LABELS, draw_examples

TINY = {"iterations": 4, "batch": 1, "size": 64, "channels": 16, "weights": "none", "threads": 1}


def spec(folder: Path, **options: object) -> TrainSpec:
    examples = tuple(draw_examples(folder, 2))
    return TrainSpec(LABELS, examples, examples[:1], device="cpu", seed=3, options={**TINY, **options})


def test_specs_and_reports_survive_json(tmp_path: Path) -> None:
    one = spec(tmp_path)
    assert load_spec(json.loads(json.dumps(dump_spec(one)))) == one
    report = TrainReport("x", "y", 3, 1.5, Evaluation(2, 9, {"AP": (0.5, 0.4, 0.6)}), ((1, 2.0), (3, 1.0)))
    assert load_report(json.loads(json.dumps(dump_report(report)))) == report
    with pytest.raises(BadInput, match="damaged"):
        load_spec({"labels": ["a"]})


def test_what_is_set_in_the_environment_stays() -> None:
    found = training_environment({"MALLOC_TOP_PAD_": "1", "HOME": "/x"})
    assert found["MALLOC_TOP_PAD_"] == "1"
    assert found["MALLOC_MMAP_MAX_"] == "0"
    assert found["HOME"] == "/x"


def test_trains_in_a_child_and_relays_progress(tmp_path: Path) -> None:
    lines: list[tuple[float, str]] = []
    report = run_training("maskrcnn", spec(tmp_path), tmp_path / "v", lambda s, line: lines.append((s, line)))
    assert report.iterations == 4
    assert report.evaluation.n_images == 1
    assert (tmp_path / "v" / "weights.safetensors").is_file()
    assert [share for share, _ in lines] == sorted(share for share, _ in lines)
    assert "random weights" in lines[0][1]


def test_deliberate_errors_come_back_as_they_were(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        run_training("maskrcnn", spec(tmp_path, epochs=3), tmp_path / "v", lambda s, line: None)
    assert caught.value.field == "options.epochs"


def test_a_crash_names_the_end_of_its_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "sitecustomize.py"
    crash.write_text("import sys; sys.stderr.write('out of luck'); sys.exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"exit code \d+: .*out of luck|exit code \d+"):
        run_training("maskrcnn", spec(tmp_path), tmp_path / "v", lambda s, line: None)


def test_an_objection_from_the_parent_ends_the_child(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def object_to(share: float, line: str) -> None:
        raise Stop

    started = time.monotonic()
    with pytest.raises(Stop):
        run_training("maskrcnn", spec(tmp_path, iterations=100_000), tmp_path / "v", object_to)
    assert not (tmp_path / "v").exists()
    assert time.monotonic() - started < 300


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
def test_a_killed_parent_takes_the_child_along(tmp_path: Path) -> None:
    described = tmp_path / "spec.json"
    described.write_text(json.dumps(dump_spec(spec(tmp_path / "images", iterations=100_000))))
    script = (
        "import json, sys; from pathlib import Path\n"
        "from ml_backend.learners import child_process, training_job as t\n"
        f"spec = t.load_spec(json.loads(Path({str(described)!r}).read_text()))\n"
        "real = child_process.subprocess.Popen\n"
        "def spawn(*a, **k):\n    child = real(*a, **k); print(child.pid, flush=True); return child\n"
        "child_process.subprocess.Popen = spawn\n"
        f"t.run_training('maskrcnn', spec, Path({str(tmp_path / 'v')!r}), lambda s, l: print(l, flush=1))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert "starting" in parent.stdout.readline()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    for _ in range(600):
        if not _alive(child):
            break
        time.sleep(0.1)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or ") Z" not in status.read_text()
