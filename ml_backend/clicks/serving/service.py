"""The click service: an interactive context in, a mask out. Where prompts, embeddings, priors and
segmenters meet.

Every answer is a function of (image, prompts, model versions) alone. Prompts are answered as a chain: the
mask after k clicks starts from the mask after k - 1 clicks, and a chain that is not in memory is replayed
from its start. So the same prompts give the same mask after an undo, a restart, or in another process, and
nobody's state can leak into anybody else's answer: the service keeps caches, never sessions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.clicks.base import ClickResult, ClickSegmenter, Embedding, Prior, Prompt
from ml_backend.clicks.device_gate import BACKGROUND, CLICK, DeviceGate, gate_for
from ml_backend.clicks.serving.catalog import SegmenterPool
from ml_backend.clicks.serving.embeddings import EmbeddingStore, Found
from ml_backend.clicks.serving.prewarm import Prewarmer, TaskRef, Upcoming
from ml_backend.clicks.serving.prompts import PromptContext, parse_context, to_prompt
from ml_backend.clicks.start_masks import Proposals, prior_from_mask, proposal_for
from ml_backend.errors import BadImage
from ml_backend.images.store import ImageRef
from ml_backend.instances import Rle
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.regions import Region, region_id, to_result
from ml_backend.masks.rle import decode_rle, encode_mask, rle_area, rle_box, rle_hw
from ml_backend.settings import BackendSettings

__all__ = [
    "ClickAnswer",
    "ClickService",
    "ImageSource",
    "ProposalSource",
]

log = logging.getLogger(__name__)

PHASES = ("fetch", "decode", "encode", "wait", "segment", "serialise")
_REFS_KEPT = 100_000
_REFS_KEPT_S = 300.0
"""What an address holds is asked again after this long; addresses may be overwritten."""
_MASKS_KEPT = 512
_ANSWERS_KEPT = 1024


class ImageSource(Protocol):
    """What the service needs of ``ml_backend.images.store.ImageStore``. Both raise BadImage."""

    def get(self, value: str, *, task_id: int | None = None, project_id: int | None = None) -> ImageRef:
        """The image behind an address; from the image cache when it is there."""
        ...

    def pixels(self, ref: ImageRef) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, read-only."""
        ...


class ProposalSource(Protocol):
    """Where the current model's instances of a task come from; ``services.PoolProposals`` reads the pool."""

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals | None:
        """Instances of one task, or None. Called on every click: must be quick when asked again."""
        ...


Observe = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, eq=False)
class ClickAnswer:
    """A mask with where it came from: ``tier`` of its embedding, ``seconds`` by phase, ``from_proposal``."""

    rle: Rle
    iou: float
    label: str
    region_id: str
    segmenter: str
    tier: str
    from_proposal: bool
    seconds: Mapping[str, float]


V = TypeVar("V")


class _Lru(Generic[V]):
    """A small thread-safe map of the most recently used values."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._items: OrderedDict[object, V] = OrderedDict()

    def get(self, key: object) -> V | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: object, value: V) -> None:
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            while len(self._items) > self._size:
                self._items.popitem(last=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Mask:
    """A mask in memory as run lengths, with what the next click of its chain starts from."""

    rle: Rle
    iou: float
    logits: npt.NDArray[np.float32] | None
    from_proposal: bool


class ClickService:
    """Thread-safe; one per process.

    Parameters
    ----------
    settings : of the backend
    images : fetches and decodes
    proposals : the pool of the current model, or None
    observe : called with (phase, seconds) for every phase of a click
    segmenters, store : to share or replace in tests
    """

    def __init__(
        self,
        settings: BackendSettings,
        images: ImageSource,
        *,
        proposals: ProposalSource | None = None,
        observe: Observe | None = None,
        segmenters: SegmenterPool | None = None,
        store: EmbeddingStore | None = None,
    ) -> None:
        self.settings = settings
        self.images = images
        self.proposals = proposals
        self.observe = observe
        self.segmenters = segmenters or SegmenterPool(settings)
        self.store = store or EmbeddingStore(
            settings.data_dir / "embeddings",
            ram_bytes=settings.embedding_ram_bytes,
            disk_bytes=settings.embedding_disk_bytes,
            half=settings.embedding_half,
        )
        self._refs: _Lru[tuple[float, ImageRef]] = _Lru(_REFS_KEPT)
        self._masks: _Lru[_Mask] = _Lru(_MASKS_KEPT)
        self._answers: _Lru[dict[str, Any]] = _Lru(_ANSWERS_KEPT)
        self._recent_boxes: _Lru[PromptContext] = _Lru(_ANSWERS_KEPT)
        self.prewarmer = Prewarmer(self, Upcoming(settings.data_dir))
        self.last_click = float("-inf")

    # -- clicks ------------------------------------------------------------------------------------

    def predict(self, task: Mapping[str, Any], context: object, project: ProjectFacts) -> dict[str, Any]:
        """Answer one interactive request: ``{"result": […], "score": …, "model_version": …}``.

        Reads ``id`` and ``data`` of the task and ``result`` of the context; drafts and other regions are
        never looked at. Raises BadPrompt, BadImage, BadLabelConfig, ModelError.
        """
        self.last_click = time.monotonic()
        prompts = self._with_recent_box(task, parse_context(context, labels=project.config.labels), project)
        segmenter = self._segmenter(project)
        url = project.config.image_of(task.get("data") or {})
        control = project.config.output_for(prompts.label)
        task_id = int(task.get("id") or 0)
        key = (
            project.project_id,
            task_id,
            url,
            segmenter.encoder,
            project.config.digest,
            project.model_version,
            prompts,
        )
        kept = self._answers.get(key)
        if kept is not None:
            return kept
        answer = self.click(task_id, url, prompts, project, segmenter=segmenter)
        with self._timed("serialise", {}):
            result = _to_results(answer, project.config, control)
        reply = {
            "result": result,
            "score": round(answer.iou, 4),
            "model_version": f"{segmenter.name}:{segmenter.encoder}",
        }
        self._answers.put(key, reply)
        self.prewarmer.after_click(project, task_id)
        return reply

    def click(
        self,
        task_id: int,
        url: str,
        prompts: PromptContext,
        project: ProjectFacts,
        *,
        segmenter: ClickSegmenter | None = None,
    ) -> ClickAnswer:
        """The mask for checked prompts, with timings; ``predict`` without the caches of whole answers."""
        segmenter = segmenter or self._segmenter(project)
        seconds: dict[str, float] = {}
        sha, found = self._embedding(url, task_id, project, segmenter, CLICK, seconds)
        prompt = to_prompt(prompts, found.embedding.hw)
        start, start_key = None, None
        if self.proposals is not None:
            found_here = self.proposals.proposals(project, task_id)
            chosen = proposal_for(found_here, prompt)
            if found_here is not None and chosen is not None:
                start, start_key = chosen[1], (found_here.version, task_id, chosen[0])
        with self._timed("segment", seconds):
            mask = self._chain(sha, found.embedding, segmenter, prompt, start, start_key)
        return ClickAnswer(
            rle=mask.rle,
            iou=mask.iou,
            label=prompt.label,
            region_id=_region_id(project.project_id, task_id, prompts),
            segmenter=segmenter.name,
            tier=found.tier,
            from_proposal=mask.from_proposal,
            seconds=seconds,
        )

    def _chain(
        self,
        sha: str,
        embedding: Embedding,
        segmenter: ClickSegmenter,
        prompt: Prompt,
        start: Prior | None,
        start_key: tuple[str, int, int] | None,
    ) -> _Mask:
        """Masks after the box, the first click, the second …; each from the one before, cached on the way."""
        base = (sha, segmenter.encoder, prompt.label, prompt.box, start_key)
        first = 0 if prompt.box is not None else 1
        mask: _Mask | None = None
        known = len(prompt.points)
        while known >= first and (mask := self._masks.get((base, prompt.points[:known]))) is None:
            known -= 1
        for count in range(known + 1, len(prompt.points) + 1):
            part = Prompt(prompt.points[:count], prompt.box, prompt.label)
            prior: Prior | None
            if mask is not None:
                prior = prior_from_mask(decode_rle(mask.rle), logits=mask.logits, from_proposal=False)
            else:
                prior = start
            result = segmenter.segment(embedding, part, prior)
            mask = _pack(result, from_proposal=start is not None)
            self._masks.put((base, part.points), mask)
        if mask is None:  # no box and no points cannot come through parse_context
            raise AssertionError("a prompt without clicks reached the chain")
        return mask

    def _with_recent_box(
        self, task: Mapping[str, Any], prompts: PromptContext, project: ProjectFacts
    ) -> PromptContext:
        """Points after a box. The editor sends points and boxes apart, so a series that *begins* with a
        background click, which means nothing alone, refines the newest box of the same task and label.
        """
        key = (project.project_id, task.get("id"), prompts.label)
        if prompts.box is not None:
            self._recent_boxes.put(key, prompts)
            return prompts
        if prompts.points and not prompts.points[0][2]:
            recent = self._recent_boxes.get(key)
            if recent is not None:
                return PromptContext(
                    prompts.points, recent.box, prompts.label, prompts.from_name, prompts.to_name
                )
        return prompts

    # -- embeddings --------------------------------------------------------------------------------

    def embed(self, ref: TaskRef, *, priority: int = BACKGROUND) -> str:
        """Make sure the embedding of a task's image exists; returns its tier. Raises BadImage, ModelError."""
        segmenter = self._segmenter(ref.project)
        if not segmenter.persist and priority != CLICK:
            return "not needed"
        _, found = self._embedding(ref.url, ref.task_id, ref.project, segmenter, priority, {})
        return found.tier

    def _embedding(
        self,
        url: str,
        task_id: int,
        project: ProjectFacts,
        segmenter: ClickSegmenter,
        priority: int,
        seconds: dict[str, float],
    ) -> tuple[str, Found]:
        memo = (project.project_id, url)
        kept = self._refs.get(memo)
        if kept is None or time.monotonic() - kept[0] > _REFS_KEPT_S:
            with self._timed("fetch", seconds):
                image = self.images.get(url, task_id=task_id or None, project_id=project.project_id or None)
                kept = (time.monotonic(), image)
            self._refs.put(memo, kept)
        ref = kept[1]

        def load() -> npt.NDArray[np.uint8]:
            with self._timed("decode", seconds):
                return self._pixels(ref, url, task_id, project.project_id)

        def encode(pixels: npt.NDArray[np.uint8]) -> Embedding:
            with self._timed("encode", seconds):
                return segmenter.embed(pixels)

        began = time.perf_counter()
        found = self.store.get_or_make(
            ref.sha,
            segmenter.encoder,
            load,
            encode,
            # Without an encoder there is nothing to take turns for: no waiting for another project's.
            gate=gate_for(segmenter.device) if segmenter.persist else DeviceGate(),
            priority=priority,
            persist=segmenter.persist,
        )
        waited = time.perf_counter() - began - sum(seconds.get(p, 0.0) for p in ("decode", "encode"))
        if found.tier == "joined" and self.observe is not None:
            self.observe("wait", waited)
        return ref.sha, found

    def _pixels(self, ref: ImageRef, url: str, task_id: int, project_id: int) -> npt.NDArray[np.uint8]:
        """Pixels of an image that was seen; fetched again when the image cache dropped its file meanwhile."""
        try:
            return self.images.pixels(ref)
        except BadImage:
            if ref.path.exists():
                raise
        again = self.images.get(url, task_id=task_id or None, project_id=project_id or None)
        if again.sha != ref.sha:
            raise BadImage(
                "the image changed while it was being clicked", field="task.data", hint="Click again"
            )
        return self.images.pixels(again)

    def _segmenter(self, project: ProjectFacts) -> ClickSegmenter:
        name = project.segmenter or self.settings.segmenter
        return self.segmenters.get(name, ProjectPaths(self.settings.data_dir, project.project_id))

    @contextmanager
    def _timed(self, phase: str, seconds: dict[str, float]) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            seconds[phase] = seconds.get(phase, 0.0) + spent
            if self.observe is not None:
                self.observe(phase, spent)


def _pack(result: ClickResult, *, from_proposal: bool) -> _Mask:
    logits = None if result.logits is None else result.logits[0]
    return _Mask(encode_mask(result.masks[0]), float(result.iou[0]), logits, from_proposal)


def _to_results(answer: ClickAnswer, config: LabelConfig, control: ControlTag) -> list[dict[str, Any]]:
    """The mask in the form of its control; nothing when the mask is empty."""
    if rle_area(answer.rle) == 0:
        return []
    region = Region(
        id=answer.region_id,
        kind="mask",
        label=answer.label,
        rle=answer.rle,
        box_xyxy=rle_box(answer.rle),
        score=answer.iou,
    )
    return to_result([region], config, rle_hw(answer.rle), output=control)


def _region_id(project_id: int, task_id: int, prompts: PromptContext) -> str:
    """Ten characters that depend on task and prompts only: repeating a request cannot double a region."""
    text = repr((project_id, task_id, prompts.label, prompts.points, prompts.box))
    return region_id(text)
