"""The click service: an interactive request in, a mask out.

Every answer depends on the picture, the prompts and the model versions only. The service keeps caches but no
sessions, so one person's work cannot change another person's answer. One thing is remembered between
requests: a person's last box, under a key that no other person shares (``RecentBoxes``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.artifacts.project_facts import ProjectFacts
from ml_backend.clicks.base import ClickSegmenter, Embedding
from ml_backend.clicks.device_gate import BACKGROUND, CLICK
from ml_backend.clicks.serving.embeddings import EmbeddingStore
from ml_backend.clicks.serving.mask_chain import MaskChains
from ml_backend.clicks.serving.prewarm import Prewarmer, TaskRef, Upcoming
from ml_backend.clicks.serving.prompts import (
    PromptContext,
    RecentBoxes,
    parse_context,
    person_of,
    to_prompt,
)
from ml_backend.clicks.serving.proposal_start import find_start, meant_label
from ml_backend.clicks.serving.rankings import Rankings
from ml_backend.clicks.serving.segmenter_pool import SegmenterPool
from ml_backend.clicks.serving.task_images import ImageSource, Observe, PhaseTimes, TaskImages
from ml_backend.clicks.start_masks import Proposals
from ml_backend.device_fallback import DeviceListener
from ml_backend.errors import BadPrompt
from ml_backend.instances import Rle
from ml_backend.label_studio.label_config import ControlTag, LabelConfig
from ml_backend.label_studio.region_writer import to_result
from ml_backend.label_studio.regions import Region, region_id, started_from
from ml_backend.masks.rle import rle_area, rle_box, rle_hw
from ml_backend.settings import BackendSettings

__all__ = ["ClickAnswer", "ClickService", "ImageSource", "ProposalSource"]


class ProposalSource(Protocol):
    """Where the current model's instances of a task come from; ``services.PoolProposals`` reads the pool."""

    def proposals(self, project: ProjectFacts, task_id: int) -> Proposals | None:
        """Instances of one task, or None. Called on every click: must be quick when asked again."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ClickAnswer:
    """A mask with where it came from.

    ``started_from`` is the id of the proposal's region on the screen; with the same ``region_id`` the editor
    replaces that region when the mask is accepted.
    ``tier`` says where its embedding was found (``not needed`` when the mask itself was in memory),
    ``seconds`` holds the time by phase.
    """

    rle: Rle
    iou: float
    label: str
    region_id: str
    segmenter: str
    tier: str
    from_proposal: bool
    seconds: Mapping[str, float]
    started_from: str = ""


class ClickService:
    """Thread-safe; one per process.

    Parameters
    ----------
    settings : of the backend
    images : fetches and decodes
    proposals : the pool of the current model, or None
    observe : called with (phase, seconds) for every phase of a click
    device_changed : called when a segmenter leaves its device for the CPU, and when it comes back
    segmenters, store : to share or replace in tests
    """

    def __init__(
        self,
        settings: BackendSettings,
        images: ImageSource,
        *,
        proposals: ProposalSource | None = None,
        observe: Observe | None = None,
        device_changed: DeviceListener | None = None,
        segmenters: SegmenterPool | None = None,
        store: EmbeddingStore | None = None,
    ) -> None:
        self.settings = settings
        self.proposals = proposals
        self.observe = observe
        self.segmenters = segmenters or SegmenterPool(settings, device_changed=device_changed)
        self.store = store or EmbeddingStore(
            settings.data_dir / "embeddings",
            ram_bytes=settings.embedding_ram_bytes,
            disk_bytes=settings.embedding_disk_bytes,
            half=settings.embedding_half,
        )
        self._images = TaskImages(images, self.store)
        self._chains = MaskChains()
        self._rankings = Rankings(settings)
        self._recent_boxes = RecentBoxes()
        self.prewarmer = Prewarmer(self, Upcoming(settings.data_dir))
        self.last_click = float("-inf")

    def predict(self, task: Mapping[str, Any], context: object, project: ProjectFacts) -> dict[str, Any]:
        """Answer one interactive request: ``{"result": […], "score": …, "model_version": …}``.

        Reads ``id`` and ``data`` of the task, and of the context its ``result`` and who sent it; drafts and
        other regions are never looked at. Raises BadPrompt, BadImage, BadLabelConfig, ModelError.
        """
        self.last_click = time.monotonic()
        config = project.config
        prompts = parse_context(context, labels=config.click_labels)
        image = _image_name(prompts, config)
        url = config.image_of(task.get("data") or {}, image)
        ref = TaskRef(project, int(task.get("id") or 0), url, is_main=image == config.image_name)
        prompts = self._recent_boxes.complete(prompts, (project.key, ref.task_id, person_of(context)))
        segmenter = self.segmenter(project)
        times = PhaseTimes(self.observe)
        answer = self._answer(ref, prompts, segmenter, times)
        with times.timed("serialise"):
            result = _to_results(answer, config, config.click_output(answer.label, image))
        self.prewarmer.after_click(project, ref.task_id)
        return {
            "result": result,
            "score": round(answer.iou, 4),
            "model_version": f"{segmenter.name}:{segmenter.encoder}",
        }

    def click(self, task_id: int, url: str, prompts: PromptContext, project: ProjectFacts) -> ClickAnswer:
        """The mask for checked prompts on the picture at ``url``, with timings."""
        times = PhaseTimes(self.observe)
        return self._answer(TaskRef(project, task_id, url), prompts, self.segmenter(project), times)

    def embed(self, task: TaskRef, *, priority: int = BACKGROUND) -> str:
        """Make sure the embedding of a task's image exists; returns its tier. Raises BadImage, ModelError."""
        segmenter = self.segmenter(task.project)
        if not segmenter.persist and priority != CLICK:
            return "not needed"
        times = PhaseTimes(self.observe)
        image = self._images.find(task, times)
        return self._images.embedding(task, image, segmenter, priority, times).tier

    def _answer(
        self, task: TaskRef, prompts: PromptContext, segmenter: ClickSegmenter, times: PhaseTimes
    ) -> ClickAnswer:
        # The image comes first: its hash is the key of every cache. An address is never used as a key.
        image = self._images.find(task, times)
        prompt = to_prompt(prompts, image.hw)
        tier = "not needed"

        def embedding() -> Embedding:
            nonlocal tier
            found = self._images.embedding(task, image, segmenter, CLICK, times)
            tier = found.tier
            return found.embedding

        found_here = None
        if self.proposals is not None and task.is_main:
            found_here = self.proposals.proposals(task.project, task.task_id)
        if not prompt.label:
            labels = task.project.config.click_labels
            prompt = replace(prompt, label=meant_label(labels, found_here, prompt, image.hw))
        began, before = time.perf_counter(), sum(times.seconds.values())
        start = find_start(
            found_here,
            task.task_id,
            prompt,
            image.hw,
            lambda first, chain: self._chains.mask(image.sha, segmenter, first, chain, embedding).rle,
        )
        chain = None if start is None else start.chain
        answering = self._rankings.joint(
            ProjectPaths(self.settings.data_dir, task.project.project_id),
            segmenter,
            lambda: self.segmenters.get(task.project.segmenter or self.settings.segmenter),
            found_here,
            task.task_id,
            lambda: self._images.pixels(task, image),
        )
        mask = self._chains.mask(image.sha, answering, prompt, chain, embedding)
        embedded = sum(times.seconds.values()) - before
        times.note("segment", time.perf_counter() - began - embedded)
        region = _region_id(task, prompts, prompt.label)
        if start is not None and start.is_replaced_by(mask.rle):
            region = start.region_id
        return ClickAnswer(
            rle=mask.rle,
            iou=mask.iou,
            label=prompt.label,
            region_id=region,
            started_from="" if start is None else start.region_id,
            segmenter=answering.name,
            tier=tier,
            from_proposal=mask.from_proposal,
            seconds=times.seconds,
        )

    def segmenter(self, project: ProjectFacts) -> ClickSegmenter:
        """What answers the clicks of a project, loaded on first use. Raises ModelError."""
        name = project.segmenter or self.settings.segmenter
        return self.segmenters.get(name, ProjectPaths(self.settings.data_dir, project.project_id))

    def segmenter_settings(self, project: ProjectFacts) -> tuple[str, BackendSettings]:
        """Name in the table and settings of ``segmenter``, if that is no network of the project's own."""
        return self.segmenters.built_from(project.segmenter or self.settings.segmenter)


def _image_name(prompts: PromptContext, config: LabelConfig) -> str:
    """Name of the Image tag that was clicked. BadPrompt when the label config has no such tag."""
    name = prompts.to_name or config.image_name
    if name not in config.images:
        raise BadPrompt(
            f"the click is on {name!r}, which is no Image tag of the label config",
            field="context.result.to_name",
            hint=f"Its images: {', '.join(config.images)}. Was the label config changed? Reload the page",
        )
    return name


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
        meta=started_from(answer.started_from),
    )
    return to_result([region], config, rle_hw(answer.rle), output=control)


def _region_id(task: TaskRef, prompts: PromptContext, label: str) -> str:
    """Ten characters that depend on task and prompts only: repeating a request cannot double a region."""
    image = () if task.is_main else (prompts.to_name,)
    text = repr((task.project.project_id, task.task_id, label, prompts.points, prompts.box, *image))
    return region_id(text)
