"""Embed ahead: the pictures that people will click on next, here or as tasks of the executor.

The worker itself embeds with the segmenter that it has loaded. Where tasks run in other processes or on other
machines, they encode and the worker keeps what they give.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.clicks.serving.encoder_source import EncoderSource, weights_of
from ml_backend.clicks.serving.prewarm import EmbedReport, TaskRef, embed_ahead
from ml_backend.clicks.serving.service import ClickService
from ml_backend.errors import GroundswellError, LeaseLost
from ml_backend.images.store import ImageRef, ImageStore
from sync.executor.base import Executor, Job
from sync.rounds.click_tasks import WEIGHTS, Embedded, Encoding, embed
from sync.rounds.loaded_pictures import Picture
from sync.rounds.progress import Progress
from sync.settings import Settings

__all__ = ["embed_next"]

_log = logging.getLogger(__name__)
_FEW: Final = 4
"""fewer pictures are encoded here before another process has loaded the weights"""


def embed_next(
    settings: Settings,
    images: ImageStore,
    progress: Progress,
    executor: Executor,
    service: ClickService,
    facts: ProjectFacts,
    tasks: Sequence[tuple[int, str]],
) -> EmbedReport:
    """Make sure that the pictures of these tasks, (id, address), have embeddings.

    A picture that cannot be embedded is logged and left out, and so is all that is left when the executor
    fails. Raises LeaseLost.
    """
    refs = [TaskRef(facts, task, image) for task, image in tasks]

    def said(done: int) -> None:
        progress.report("clicks", done / max(len(refs), 1), f"{done} images embedded")

    job = _job(settings, executor, service, facts) if executor.ships else None
    if job is None:
        return embed_ahead(service, refs, progress=said)
    began = time.monotonic()
    encoder = job.shared.source.encoder
    missing, failed = _missing(images, service, refs, encoder)
    present = len(refs) - len(missing) - failed
    if len(missing) < _FEW:
        return embed_ahead(service, refs, progress=said)
    sent: deque[tuple[TaskRef, ImageRef]] = deque()

    def inputs() -> Iterator[Picture]:
        for ref, image in missing:
            try:
                picture = Picture(None, images.data(image), settings.max_image_pixels)
            except GroundswellError as error:
                _log.warning("task %d not embedded ahead: %s", ref.task_id, error)
                continue
            sent.append((ref, image))
            yield picture

    encoded = 0
    results = executor.map(
        job,
        inputs(),
        check=lambda: progress.at("clicks.embed"),
        said=lambda line: progress.report("clicks", 0.0, line),
    )
    try:
        with closing(results):
            for result in results:
                ref, image = sent.popleft()
                if result.embedding is None:
                    _log.warning("task %d not embedded ahead: %s", ref.task_id, result.error)
                    continue
                service.store.put(image.sha, result.embedding)
                encoded += 1
                said(present + encoded)
    except LeaseLost:
        raise
    except GroundswellError as error:
        _log.warning("%d images not embedded ahead: %s", len(missing) - encoded, error)
    return EmbedReport(encoded, present, failed + len(missing) - encoded, time.monotonic() - began)


def _job(
    settings: Settings, executor: Executor, service: ClickService, facts: ProjectFacts
) -> Job[Encoding, Picture, Embedded] | None:
    """The encoder that answers the project's clicks, as a job; None when it is better used here.

    So it is when embeddings are not kept, when its files cannot travel, or when tasks would only share this
    machine's GPU.
    """
    try:
        segmenter = service.segmenter(facts)
        if not segmenter.persist:
            return None
        name, chosen = service.segmenter_settings(facts)
        weights = weights_of(name, chosen)
        device = executor.device(settings.device)
    except GroundswellError as error:
        _log.warning("click embeddings are made by the worker: %s", error)
        return None
    needs_gpu = device.startswith("cuda")
    if weights is None or (needs_gpu and not executor.elsewhere):
        return None
    source = EncoderSource(name, segmenter.encoder, chosen.hf_precision)
    return Job(
        embed,
        Encoding(source, device),
        "gpu" if needs_gpu else "cpu",
        {WEIGHTS: weights},
        "click embedding",
    )


def _missing(
    images: ImageStore, service: ClickService, refs: Sequence[TaskRef], encoder: str
) -> tuple[list[tuple[TaskRef, ImageRef]], int]:
    """Tasks whose picture has no embedding yet, each picture once; and how many could not be fetched."""
    missing: dict[str, tuple[TaskRef, ImageRef]] = {}
    failed = 0
    for ref in refs:
        try:
            image = images.get(ref.url, task_id=ref.task_id, project_id=ref.project.project_id)
        except GroundswellError as error:
            failed += 1
            _log.warning("task %d not embedded ahead: %s", ref.task_id, error)
            continue
        if not service.store.has(image.sha, encoder):
            missing.setdefault(image.sha, (ref, image))
    return list(missing.values()), failed
