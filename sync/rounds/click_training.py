"""The training of a click network beside the worker's looks: minutes of one core that nothing waits for.

It runs in a process of its own at low priority, watched by a thread; each look only asks how far it is. The
process ends when the worker ends, whatever the reason. An unfinished training starts anew.

A training outlasts the look that started it, so it holds a lease of its own: one worker trains for a project
at a time. When that lease is lost the training is stopped and publishes nothing.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ml_backend.artifacts.files import read_json, read_name
from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.evaluation.adoption import MIN_MASKS, MIN_PICTURES
from ml_backend.clicks.project_network.versions import is_usable
from ml_backend.clicks.serving.segmenter_table import AUTO
from ml_backend.clicks.training.job import job_spec, publish_click_model
from ml_backend.errors import GroundswellError, LeaseLost
from ml_backend.images.store import ImageStore
from sync.rounds.due import wanted_of
from sync.rounds.round_records import load_snapshot
from sync.rounds.train import examples_of
from sync.settings import Settings
from sync.store.lease import Lease, worker_name
from sync.store.project_store import ProjectStore
from sync.store.tables import RoundRecord

__all__ = ["ClickTraining", "click_lease", "last_version", "training_reason"]

_log = logging.getLogger(__name__)

MIN_TRAINING_MASKS: Final = 30
"""Fewer masks teach too little."""
GROWTH = 1.25
"""A new network is trained when this many times as many tasks are finished as for the last one."""


class ClickTraining:
    """One click network in training. ``share`` and ``line`` say how far it is, ``figures`` is the result.

    ``figures`` is None until the end. It is empty when another worker took over, so there is no result.
    """

    def __init__(
        self,
        db: ProjectStore,
        settings: Settings,
        paths: ProjectPaths,
        images: ImageStore,
        record: RoundRecord,
        lease: Lease,
    ) -> None:
        """Start at once; the caller holds ``lease`` already, and it is released at the end.

        Raises BadInput when the snapshot of the round cannot be read.
        """
        self._lease = lease
        self._stopped = threading.Event()
        self._guard = replace(db, lease=lease).guard
        self.project_id, self.round, self.digest = db.id, record.number, record.digest
        self.share, self.line = 0.0, "training"
        self.figures: dict[str, Any] | None = None
        with self._guard():
            _sweep(paths)
        snapshot = load_snapshot(paths, record.number)
        wanted = [target for target in wanted_of(snapshot) if target.is_of.unit == "mask"]
        labels = tuple(label for target in wanted for label in target.labels)
        last = last_version(paths)
        start = paths.clicks / last.version if last is not None and last.usable else None
        spec = job_spec(
            examples_of(db, images, snapshot["train"], labels, wanted),
            examples_of(db, images, snapshot["test"], labels, wanted),
            labels,
            incumbent=AUTO if settings.segmenter == "project" else settings.segmenter,
            options=settings.click_options,
            start=start,
            model=_model(paths),
        )
        work = (paths, _version_of(record), spec)
        self._thread = threading.Thread(target=self._run, args=work, name="click-training", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the training soon: the worker ends. It publishes nothing and starts anew another time."""
        self._stopped.set()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the training ended, or for this many seconds."""
        self._thread.join(timeout_s)

    def _progress(self, share: float, line: str) -> None:
        self._lease.check()  # raising here ends the training process
        if self._stopped.is_set():
            raise LeaseLost("the worker ends")
        self.share, self.line = share, line

    def _run(self, paths: ProjectPaths, version: str, spec: Mapping[str, Any]) -> None:
        with self._lease:
            self.figures = self._train(paths, version, spec)

    def _train(self, paths: ProjectPaths, version: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        try:
            report = publish_click_model(paths, version, spec, self._progress, guard=self._guard)
        except LeaseLost as error:
            _log.warning(
                "project %s: the click network of round %s was stopped: %s",
                self.project_id,
                self.round,
                error,
            )
            return {}
        except GroundswellError as error:
            _log.error("project %s: the click network of round %s: %s", self.project_id, self.round, error)
            return {"failed": str(error)}
        except Exception as error:
            # a bug here must not pass silently in a thread nobody joins: it is shown like any failure
            _log.exception("project %s: the click network of round %s", self.project_id, self.round)
            return {"failed": f"unexpected {type(error).__name__}: {error}"}
        else:
            return {
                "failed": "",
                "version": version,
                "serves": bool(report["use"]),
                "reason": str(report.get("reason", "")),
                "ranking": str(report.get("ranking", {}).get("reason", "")),
                "left_out": list(report.get("left_out", [])),
                "seconds": round(time.monotonic() - began, 3),
            }


@dataclass(frozen=True, slots=True)
class LastVersion:
    """The newest click version of a project, how many tasks it was trained on, and whether it still loads."""

    version: str
    n_train: int
    usable: bool


def click_lease(db: ProjectStore, settings: Settings) -> Lease:
    """The lease that a training of this project's click network holds, not taken yet."""
    return Lease(
        db.store,
        f"clicks/{db.id}",
        worker_name(),
        ttl_s=settings.lease_ttl_s,
        heartbeat_s=settings.heartbeat_s,
    )


def _version_of(record: RoundRecord) -> str:
    """Name of the click version that is trained from a round."""
    return f"click-r{record.number}-{record.digest[:10]}"


def _is_noted(record: RoundRecord) -> bool:
    """Whether the result of the round's training is written down."""
    return bool(record.figures.get("clicks", {}).get("trained") == record.digest)


def _model(paths: ProjectPaths) -> Path | None:
    """Folder of the model version whose proposals people see, None while there is none."""
    name = read_name(paths.current)
    return paths.model(name) if name and paths.model(name).is_dir() else None


def _sweep(paths: ProjectPaths) -> None:
    """Remove files of trainings that ended with their worker; the lease proves that none still runs."""
    for path in paths.clicks.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def last_version(paths: ProjectPaths) -> LastVersion | None:
    """The click version with the highest round number, None when there is none with a report."""
    found: list[tuple[int, LastVersion]] = []
    for report in paths.clicks.glob("click-r*/report.json"):
        folder = report.parent
        try:
            number = int(folder.name.split("-")[1].removeprefix("r"))
            n_train = int(read_json(report)["n_train_images"])
        except (OSError, ValueError, KeyError, IndexError) as error:
            _log.warning("%s is no click version: %r", folder, error)
            continue
        found.append((number, LastVersion(folder.name, n_train, is_usable(folder))))
    return max(found, key=lambda item: item[0])[1] if found else None


def training_reason(paths: ProjectPaths, record: RoundRecord) -> str:
    """Why a click network should be trained for this round now; empty when it should not.

    Raises BadInput when the round's snapshot cannot be read.
    """
    snapshot = load_snapshot(paths, record.number)
    wanted = [target for target in wanted_of(snapshot) if target.is_of.unit == "mask"]
    labels = {label for target in wanted for label in target.labels}

    def masks_of(row: Mapping[str, Any]) -> int:
        return sum(region["rle"] is not None and region["label"] in labels for region in row["regions"])

    masks = sum(masks_of(row) for row in snapshot["train"])
    held_out = [count for row in snapshot["test"] if (count := masks_of(row))]
    if masks < MIN_TRAINING_MASKS or sum(held_out) < MIN_MASKS or len(held_out) < MIN_PICTURES:
        return ""  # a network that cannot be compared could not serve
    last = last_version(paths)
    if last is not None and last.usable and last.version == _version_of(record) and not _is_noted(record):
        return f"{last.version} was trained, but its worker ended before the result was taken"
    if last is None:
        return f"{masks} masks are finished"
    if not last.usable:
        return f"{last.version} was made by another version of Groundswell"
    if len(snapshot["train"]) >= GROWTH * last.n_train:
        return f"{len(snapshot['train'])} tasks are finished, {last.n_train} when the last one was trained"
    return ""
