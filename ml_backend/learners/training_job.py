"""Training in a process of its own: its death frees the device and cannot take the worker with it.

``python -m ml_backend.learners.training_job SPEC.json OUTDIR`` trains and writes JSON lines to stdout:
``{"share": 0.1, "line": "…"}`` as it goes, and last ``{"report": {…}}`` or ``{"error": {…}}``. It watches
its stdin: when the parent goes, however it goes, the pipe closes and the job ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_backend import errors
from ml_backend.artifacts.files import read_json, write_json
from ml_backend.errors import BadInput, GroundswellError, ModelError
from ml_backend.examples import Example
from ml_backend.learners.base import Evaluation, Learner, Progress, TrainReport, TrainSpec
from ml_backend.learners.registry import get_learner

__all__ = ["dump_report", "dump_spec", "load_report", "load_spec", "run_training", "training_environment"]

_ORPHANED = 3


def dump_spec(spec: TrainSpec) -> dict[str, Any]:
    """JSON-ready form of a spec: the snapshot kept beside the model."""
    return {
        "labels": list(spec.labels),
        "train": [_dump_example(example) for example in spec.train],
        "test": [_dump_example(example) for example in spec.test],
        "preset": spec.preset,
        "start": None if spec.start is None else str(spec.start),
        "seed": spec.seed,
        "device": spec.device,
        "options": dict(spec.options),
    }


def load_spec(value: Mapping[str, Any]) -> TrainSpec:
    """The spec back from ``dump_spec``. Raises BadInput where a field is missing or of another kind."""
    try:
        return TrainSpec(
            labels=tuple(str(label) for label in value["labels"]),
            train=tuple(_load_example(example) for example in value["train"]),
            test=tuple(_load_example(example) for example in value["test"]),
            preset=str(value["preset"]),
            start=None if value["start"] is None else Path(value["start"]),
            seed=int(value["seed"]),
            device=str(value["device"]),
            options=dict(value["options"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the description of the training run is damaged: {error!r}", field="spec") from error


def dump_report(report: TrainReport) -> dict[str, Any]:
    return dataclasses.asdict(report)


def load_report(value: Mapping[str, Any]) -> TrainReport:
    """The report back from ``dump_report``."""
    evaluation = value["evaluation"]
    metrics = {str(k): (float(v[0]), float(v[1]), float(v[2])) for k, v in evaluation["metrics"].items()}
    return TrainReport(
        learner=str(value["learner"]),
        started_from=str(value["started_from"]),
        iterations=int(value["iterations"]),
        seconds=float(value["seconds"]),
        evaluation=Evaluation(int(evaluation["n_images"]), int(evaluation["n_instances"]), metrics),
        history=tuple((int(step), float(loss)) for step, loss in value["history"]),
    )


def training_environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` with an allocator that keeps big buffers (about twice as fast on a CPU) and threads that
    sleep while they wait, so that a busy machine is not slowed further. What is set already stays."""
    wanted = {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "20000000000",
        "MALLOC_TOP_PAD_": "268435456",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
    }
    return {**wanted, **base}


def run_training(learner: Learner | str, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
    """Train in a child process and relay its progress.

    If ``progress`` raises, the child is killed and the exception goes on. Raises what the training raised
    when that was deliberate (BadInput, ModelError, …) and ModelError with the end of its stderr otherwise.
    """
    name = learner if isinstance(learner, str) else learner.name
    with tempfile.TemporaryDirectory(prefix="groundswell-train-") as scratch:
        described = Path(scratch) / "spec.json"
        write_json(described, {"learner": name, "spec": dump_spec(spec)})
        with (Path(scratch) / "stderr").open("w+b") as complaints:
            child = subprocess.Popen(
                [sys.executable, "-m", "ml_backend.learners.training_job", str(described), str(out)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=training_environment(os.environ),
                text=True,
            )
            try:
                last = _relay(child, progress)
                code = child.wait()
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
                for pipe in (child.stdin, child.stdout):
                    if pipe is not None:
                        pipe.close()
            complaints.seek(0)
            tail = complaints.read()[-2000:].decode("utf-8", "replace").strip()
    if "report" in last:
        return load_report(last["report"])
    if "error" in last:
        raise _rebuild(last["error"])
    reason = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise ModelError(
        f"the training process {reason}" + (f": {tail}" if tail else ""),
        hint="Signal 9 often means that memory ran out: lower the options batch or size"
        if code == -9
        else "",
    )


def _relay(child: subprocess.Popen[str], progress: Progress) -> dict[str, Any]:
    """Pass progress on; the last message that is none."""
    last: dict[str, Any] = {}
    assert child.stdout is not None
    for line in child.stdout:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            continue  # a library printed something
        if isinstance(message, dict) and "share" in message:
            progress(float(message["share"]), str(message["line"]))
        elif isinstance(message, dict):
            last = message
    return last


def _rebuild(described: Mapping[str, str]) -> GroundswellError:
    kind = getattr(errors, described["kind"], ModelError)
    found: GroundswellError = kind(described["message"], hint=described["hint"], field=described["field"])
    return found


def _dump_example(example: Example) -> dict[str, Any]:
    return {
        "task_id": example.task_id,
        "image": str(example.image),
        "label": list(example.label),
        "rle": [dict(rle) for rle in example.rle],
    }


def _load_example(value: Mapping[str, Any]) -> Example:
    return Example(
        int(value["task_id"]),
        Path(value["image"]),
        tuple(int(label) for label in value["label"]),
        tuple(dict(rle) for rle in value["rle"]),
    )


def _say(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(_ORPHANED)


def main(arguments: list[str]) -> int:
    """Entry point of the child."""
    described, out = Path(arguments[0]), Path(arguments[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        request = read_json(described)
        report = get_learner(request["learner"]).train(
            load_spec(request["spec"]), out, lambda share, line: _say({"share": share, "line": line})
        )
    except GroundswellError as error:
        kind = type(error).__name__
        _say({"error": {"kind": kind, "message": error.message, "hint": error.hint, "field": error.field}})
        return 1
    _say({"report": dump_report(report)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
