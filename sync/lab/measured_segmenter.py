"""One segmenter measured in a process of its own, so that its memory is its own.

The peak of the resident memory counts everything that this segmenter needs: its libraries, its weights, an
embedding, the picture. A small one without libraries is not charged for what another one loaded.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ml_backend.clicks.evaluation.experiment import ClickExperiment, run_experiment
from ml_backend.clicks.evaluation.simulated_clicks import ClickTarget
from ml_backend.errors import GroundswellError, ModelError
from ml_backend.settings import BackendSettings

__all__ = ["SegmenterTask", "measure", "peak_bytes"]


@dataclass(frozen=True, slots=True)
class SegmenterTask:
    """What one process does: all ``experiments`` with one segmenter on the same targets.

    ``network`` is the folder of the trained network for the segmenter ``project``.
    """

    name: str
    targets: Sequence[ClickTarget]
    experiments: Sequence[ClickExperiment]
    settings: BackendSettings
    network: Path | None = None


def measure(task: SegmenterTask, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A report of ``run_experiment`` per experiment, each with ``peak_bytes``, None where the system does not
    say. ``say`` is called with lines about the progress.

    Raises what the segmenter raises, ModelError when its process ends without a result.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(task, there), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            kind, value = here.recv()
            if kind == "say":
                say(value)
            elif kind == "error":
                raise value
            else:
                found: list[dict[str, Any]] = value
                return found
    except EOFError:
        process.join()
        raise ModelError(
            f"the process that measured {task.name} ended with code {process.exitcode}",
            hint="Was there enough memory? Its own message stands above",
        ) from None
    finally:
        here.close()
        process.kill()  # done, or of no use any more
        process.join()


def peak_bytes() -> int | None:
    """Most resident memory that this process had so far; None where the system does not say.

    Not ``getrusage``: there Linux counts the memory of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if found is None else int(found) * 1024


def _run(task: SegmenterTask, answers: Connection) -> None:
    try:
        answers.send(("done", _measure(task, lambda line: answers.send(("say", line)))))
    except GroundswellError as error:
        answers.send(("error", error))


def _measure(task: SegmenterTask, say: Callable[[str], None]) -> list[dict[str, Any]]:
    from ml_backend.clicks.serving.catalog import build_segmenter

    if task.network is None:
        segmenter = build_segmenter(task.name, task.settings)
    else:
        from ml_backend.clicks.project_network.click_net import ProjectSegmenter

        segmenter = ProjectSegmenter(task.network)
    reports = [run_experiment(segmenter, task.targets, one, say) for one in task.experiments]
    for report in reports:
        report["peak_bytes"] = peak_bytes()
    return reports
