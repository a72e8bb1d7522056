"""Train a click network in a process of its own: ``python -m ml_backend.clicks.training.job SPEC OUT``.

SPEC is a JSON file (``job_spec`` writes its content)::

    {"train": [example…], "test": [example…], "labels": […], "incumbent": "classical", "options": {…},
    "start": null}

with examples as {"task_id", "image", "label", "rle"}. Every line on stdout is one JSON object: ``{"done",
"line"}`` while running, at the end ``{"report": …}`` or ``{"error", "hint"}``. Exit code 0, or 1 after an
error. OUT then holds weights.safetensors, click.json, report.json.

A process of its own because training wants an allocator that keeps its pages, the lowest priority, and to be
killed at will. It watches its stdin: when the parent goes, however it goes, the pipe closes and the job ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import publish_dir, read_json, write_atomic, write_json
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.project_network.versions import is_outdated
from ml_backend.devices import TUNED_MALLOC
from ml_backend.errors import BadInput, GroundswellError, ModelError
from ml_backend.examples import Example
from ml_backend.learners.base import Progress

if TYPE_CHECKING:
    from ml_backend.clicks.training.trainer import ClickOptions

__all__ = ["examples_from_json", "job_spec", "main", "publish_click_model", "run_click_job"]

_ENVIRONMENT = {**TUNED_MALLOC, "OMP_WAIT_POLICY": "PASSIVE"}
"""Unless the environment says otherwise: threads that wait must sleep, the cores are for those who click."""
_NICE, _ORPHANED = 10, 3


def job_spec(
    train: Sequence[Example],
    test: Sequence[Example],
    labels: Sequence[str],
    *,
    incumbent: str = "classical",
    options: Mapping[str, Any] | None = None,
    start: Path | None = None,
) -> dict[str, Any]:
    """The content of SPEC; ``incumbent`` is the segmenter configured now, ``start`` an earlier version's
    folder.
    """
    return {
        "train": [_example_row(example) for example in train],
        "test": [_example_row(example) for example in test],
        "labels": list(labels),
        "incumbent": incumbent,
        "options": dict(options or {}),
        "start": None if start is None else str(start),
    }


def run_click_job(
    spec: Mapping[str, Any], out: Path, progress: Progress, *, timeout_s: float | None = None
) -> dict[str, Any]:
    """Train in a child process into the empty folder ``out`` and return the report (fields of
    ``ClickReport``).

    ModelError when the child fails, with what it said; the child is killed when this call is interrupted.
    """
    spec_file = out.parent / f".{out.name}.spec.json"
    write_json(spec_file, spec)
    command = [sys.executable, "-m", "ml_backend.clicks.training.job", str(spec_file), str(out)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**_ENVIRONMENT, **os.environ},
    )
    try:
        return _listen(child, progress, timeout_s)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        spec_file.unlink(missing_ok=True)


def _listen(child: subprocess.Popen[str], progress: Progress, timeout_s: float | None) -> dict[str, Any]:
    import threading

    assert child.stdout is not None
    assert child.stderr is not None
    errors: list[str] = []
    drain = threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True)
    drain.start()  # a full stderr pipe would stop the child
    alarm = threading.Timer(timeout_s, child.kill) if timeout_s is not None else None
    if alarm is not None:
        alarm.start()
    try:
        last: dict[str, Any] = {}
        for line in child.stdout:
            try:
                last = json.loads(line)
            except json.JSONDecodeError:  # a library's own message
                continue
            if "done" in last:
                progress(float(last["done"]), str(last["line"]))
        code = child.wait()
    finally:
        if alarm is not None:
            alarm.cancel()
    drain.join(timeout=5)
    if code == 0 and "report" in last:
        report: dict[str, Any] = last["report"]
        return report
    said = last.get("error") or "".join(errors[-5:]).strip() or f"exit code {code}"
    raise ModelError(f"the click network was not trained: {said}", hint=str(last.get("hint", "")))


def publish_click_model(
    project: ProjectPaths, version: str, spec: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """What the worker calls: train ``version`` unless it exists, publish it by rename, and let ``current``
    name it if it is to be used (by rename too); take ``current`` away if the incumbent serves better.
    Returns the report.

    Safe to call again after a kill at any point: a finished version is not trained twice, unless another
    release of Groundswell made it.
    """
    folder = project.clicks / version
    if is_outdated(folder):
        shutil.rmtree(folder)
    if not folder.exists():
        with publish_dir(folder) as staging:
            run_click_job(spec, staging, progress)
    report: dict[str, Any] = read_json(folder / "report.json")
    current = project.clicks / "current"
    if report["use"]:
        write_atomic(current, version.encode())
    else:
        current.unlink(missing_ok=True)
    return report


def examples_from_json(rows: Any, *, field: str) -> list[Example]:
    """Examples of a SPEC. BadInput names the row that is wrong."""
    if not isinstance(rows, list):
        raise BadInput("must be a list of examples", field=field)
    examples = []
    for index, row in enumerate(rows):
        try:
            examples.append(
                Example(int(row["task_id"]), Path(row["image"]), tuple(row["label"]), tuple(row["rle"]))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"not an example: {error!r}", field=f"{field}[{index}]") from error
    return examples


def _example_row(example: Example) -> dict[str, Any]:
    row = asdict(example)
    return {**row, "image": str(example.image)}


def _options(given: Mapping[str, Any]) -> ClickOptions:
    from ml_backend.clicks.training.trainer import ClickOptions

    known = {f.name for f in fields(ClickOptions)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise BadInput(
            f"unknown options {unknown}", field="options", hint=f"Known: {', '.join(sorted(known))}"
        )
    return ClickOptions(**given)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 2:
        print("usage: python -m ml_backend.clicks.training.job SPEC OUT", file=sys.stderr)
        return 2
    spec_file, out = Path(arguments[0]), Path(arguments[1])

    def say(value: Mapping[str, Any]) -> None:
        print(json.dumps(value), flush=True)

    try:
        from ml_backend.clicks.evaluation.report import as_json
        from ml_backend.clicks.serving.catalog import build_segmenter
        from ml_backend.clicks.training.trainer import train_click_model
        from ml_backend.settings import BackendSettings

        spec = read_json(spec_file)
        options = _options(spec["options"])
        report = train_click_model(
            examples_from_json(spec["train"], field="train"),
            examples_from_json(spec["test"], field="test"),
            out,
            build_segmenter(spec["incumbent"], BackendSettings()),
            lambda done, line: say({"done": round(done, 4), "line": line}),
            labels=spec["labels"],
            options=options,
            start=Path(spec["start"]) if spec.get("start") else None,
        )
        say({"report": as_json(report)})
    except GroundswellError as error:
        say({"error": str(error), "hint": error.hint})
        return 1
    except (KeyError, ValueError) as error:
        say({"error": f"{type(error).__name__}: {error}", "hint": ""})
        return 1
    return 0


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not buffered: its lock would be held at the interpreter's end
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    import threading

    os.nice(_NICE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main())
