"""Segmenter ``auto``: the best of the others that can serve here. It downloads nothing.

Candidates are the weights that a setting names and those in ``data_dir/checkpoints``, where ``groundswell
models pull`` puts them. What a setting names goes first. Then, on a GPU: transformers' models before SAM in
torch, before ONNX pairs, the larger first. On a CPU: the smaller first, because the time to encode a picture
grows with the weights, and none above ``SLOW_BYTES``. (SAM ViT-B, 375 MB, takes 2.6 s a picture in
onnxruntime on two cores; ViT-H is seven times as large.) Click networks come after the SAM family. Last come
the network of the package and, without onnxruntime, ``classical``. A project's own network goes before all
of them once it was adopted: ``SegmenterPool`` sees to that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_backend.artifacts.paths import ProjectPaths
from ml_backend.clicks.base import ClickSegmenter
from ml_backend.clicks.segmenters.hf_pull import PART
from ml_backend.clicks.segmenters.sam_checkpoints import CHECKPOINTS
from ml_backend.clicks.serving.catalog import build_segmenter, inspect_segmenter
from ml_backend.clicks.serving.probe import known_probe
from ml_backend.clicks.serving.segmenter_table import AUTO, SEGMENTERS
from ml_backend.devices import resolve_device
from ml_backend.errors import GroundswellError, ModelError
from ml_backend.extras import missing_packages
from ml_backend.settings import BackendSettings

__all__ = [
    "SLOW_BYTES",
    "AutoChoice",
    "Candidate",
    "Fetchable",
    "build_best",
    "choose",
    "fetchable",
    "from_settings",
    "has_weights",
    "settings_for",
]

log = logging.getLogger(__name__)

SLOW_BYTES = 400 * 10**6
"""Larger weights are no default on a CPU."""

_GPU_ORDER = ("hf", "sam", "sam-onnx", "click-onnx")
_EXPORTS_SAM = ("torch", "segment_anything", "onnx", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segmenter with settings under which it can be built by its own name.

    ``what`` says which weights, for people; ``named`` whether a setting names them.
    """

    segmenter: str
    settings: BackendSettings
    what: str
    named: bool = False
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class AutoChoice:
    """``ranked`` are the candidates, best first; the last one always works. ``passed_over`` says in a line
    each which weights are not used, why, and what to do.
    """

    ranked: tuple[Candidate, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        return self.ranked[0]

    @property
    def line(self) -> str:
        """What answers clicks and why, in one line."""
        return f"{self.best.segmenter} (auto: {self.best.what})"

    @property
    def better(self) -> tuple[str, ...]:
        """What a better choice would be, a line each."""
        if self.best.segmenter not in ("shipped", "classical"):
            return self.passed_over
        lines = [*self.passed_over]
        if self.best.segmenter == "classical":
            lines.append("pip install onnxruntime: the click network of the package needs fewer clicks")
        found = fetchable()
        if found is not None:
            lines.append(
                f"`groundswell models pull {found.name}` ({found.nbytes / 1e6:.0f} MB, {found.licence}): "
                "fewer clicks per mask, from the next start on"
            )
        return tuple(lines)

    def without_best(self, why: str) -> AutoChoice:
        """The choice after the best candidate turned out not to work."""
        return AutoChoice(self.ranked[1:], (f"{self.best.segmenter}: {why}", *self.passed_over))


@dataclass(frozen=True, slots=True)
class Fetchable:
    """Published weights that would be better than none; ``nbytes`` is about their size."""

    name: str
    nbytes: int
    licence: str


def fetchable() -> Fetchable | None:
    """The published weights that suit what is installed here, quick enough for a CPU; None when nothing here
    could run any.
    """
    if not missing_packages([*SEGMENTERS["hf"].needs]):
        return Fetchable("facebook/sam2.1-hiera-tiny", 156_000_000, "Apache-2.0")
    if not missing_packages([*_EXPORTS_SAM]):
        return Fetchable("sam_vit_b", CHECKPOINTS["sam_vit_b"].size, "Apache-2.0")
    return None


def has_weights(settings: BackendSettings) -> bool:
    """Whether a setting names weights or some were pulled, whatever they are. Imports no torch."""
    return next(_offers(settings), None) is not None


def choose(settings: BackendSettings, *, again: bool = False) -> AutoChoice:
    """What ``auto`` stands for under these settings. Loads no weights, reads headers of files only.

    Weights that failed a probe are passed over, except with ``again``.
    """
    found: list[Candidate] = []
    passed_over: list[str] = []
    offers = list(_offers(settings))
    on_gpu = bool(offers) and _on_gpu(settings)
    seen: set[tuple[Path, ...]] = set()
    for offer in offers:
        name = offer.segmenter or ("sam" if on_gpu or missing_packages([*_EXPORTS_SAM]) else "sam-onnx")
        concrete = settings.model_copy(update={**offer.changes, "segmenter": name})
        report = inspect_segmenter(name, concrete)
        files = tuple(path.resolve() for path in report.files)
        failed = None if report.problem or again else known_probe(name, concrete, report)
        if report.problem:
            passed_over.append(_sentence(f"{offer.what} is not used: {report.problem}", report.hint))
        elif failed is not None and failed.problem:
            passed_over.append(_sentence(f"{offer.what} is not used: {failed.problem}", failed.hint))
        elif files in seen:
            continue
        elif report.nbytes > SLOW_BYTES and not on_gpu:
            named = {"segmenter": name, **({} if offer.named else offer.changes)}
            use = " ".join(f"GROUNDSWELL_{key.upper()}={value}" for key, value in named.items() if value)
            passed_over.append(
                f"{offer.what} is not used: {report.nbytes / 1e6:.0f} MB take many seconds a picture on "
                f"a CPU. To use them all the same: {use}"
            )
        else:
            found.append(Candidate(name, concrete, offer.what, offer.named, report.nbytes))
        seen.add(files)
    found.sort(key=_gpu_rank if on_gpu else _cpu_rank)
    return AutoChoice((*found, *_always(settings, bool(found or passed_over))), tuple(passed_over))


def settings_for(name: str, settings: BackendSettings) -> BackendSettings:
    """Settings under which the segmenter ``name`` can be built: with the weights that were pulled, where
    ``settings`` say ``auto`` and name none of its own.
    """
    if settings.segmenter != AUTO or name == AUTO:
        return settings
    found = (candidate.settings for candidate in choose(settings).ranked if candidate.segmenter == name)
    return next(found, settings)


def build(candidate: Candidate) -> ClickSegmenter:
    """A candidate's segmenter. Raises ModelError."""
    return build_segmenter(candidate.segmenter, candidate.settings)


def build_best(
    choice: AutoChoice, build: Callable[[Candidate], ClickSegmenter] = build
) -> tuple[AutoChoice, ClickSegmenter]:
    """The best candidate that can be built; the choice that comes back begins with it.

    What fails is logged as an error that says what to do, and the next one is tried.
    """
    while True:
        best = choice.best
        try:
            return choice, build(best)
        except Exception as error:  # a full disk, no memory, whatever libraries raise about foreign weights
            if len(choice.ranked) == 1:
                raise
            after = choice.ranked[1]
            why = str(error) if isinstance(error, GroundswellError) else f"{type(error).__name__}: {error}"
            log.error(
                "%s cannot answer clicks: %s. Now %s does", best.segmenter, why, after.segmenter,
                exc_info=None if isinstance(error, GroundswellError) else error,
            )  # fmt: skip
            choice = choice.without_best(why)


def from_settings(settings: BackendSettings, project: ProjectPaths | None) -> ClickSegmenter:
    """The best segmenter that can be built here, for callers that need only one."""
    return build_best(choose(settings))[1]


@dataclass(frozen=True, slots=True)
class _Offer:
    """Weights to look at. Segmenter "" means a .pth of SAM, which the device decides about."""

    segmenter: str
    changes: Mapping[str, Any]
    what: str
    named: bool


def _offers(settings: BackendSettings) -> Iterator[_Offer]:
    if settings.hf_model:
        yield _Offer("hf", {}, f"{settings.hf_model} of GROUNDSWELL_HF_MODEL", True)
    if settings.sam_onnx is not None:
        yield _Offer("sam-onnx", {}, f"{settings.sam_onnx} of GROUNDSWELL_SAM_ONNX", True)
    if settings.click_onnx is not None:
        yield _Offer("click-onnx", {}, f"{settings.click_onnx} of GROUNDSWELL_CLICK_ONNX", True)
    path = settings.sam_checkpoint
    if path is not None:
        what = f"{path} of GROUNDSWELL_SAM_CHECKPOINT"
        if path.is_dir():
            yield _Offer("sam-onnx", {"sam_onnx": path}, what, True)
        elif path.suffix == ".onnx":
            yield _Offer("click-onnx", {"click_onnx": path}, what, True)
        else:
            yield _Offer("", {"sam_onnx": None}, what, True)
    folder = settings.data_dir / "checkpoints"
    for config in sorted(folder.glob("*--*/config.json")):
        if config.parent.name.endswith(PART):
            continue  # a download that is not finished
        changes = {"hf_model": str(config.parent.absolute()), "hf_revision": ""}
        yield _Offer("hf", changes, str(config.parent), False)
    for path in sorted(folder.glob("*.pth")):
        yield _Offer("", {"sam_onnx": None, "sam_checkpoint": path.absolute()}, str(path), False)


def _on_gpu(settings: BackendSettings) -> bool:
    if missing_packages(["torch"]):
        return False
    try:
        return resolve_device(settings.device) != "cpu"
    except ModelError:  # whatever is built says so
        return False


def _gpu_rank(found: Candidate) -> tuple[bool, int, int]:
    return not found.named, _GPU_ORDER.index(found.segmenter), -found.nbytes


def _cpu_rank(found: Candidate) -> tuple[bool, bool, int]:
    return not found.named, found.segmenter == "click-onnx", found.nbytes


def _always(settings: BackendSettings, others: bool) -> Iterator[Candidate]:
    """What needs no weights of others."""
    why = "no other weights that can be used are here" if others else "no other weights are here"
    report = inspect_segmenter("shipped", settings)
    if not report.problem:
        yield Candidate("shipped", settings.model_copy(update={"segmenter": "shipped"}), why)
    else:
        why += f", and the click network of the package {report.problem}"
    yield Candidate("classical", settings.model_copy(update={"segmenter": "classical"}), why)


def _sentence(problem: str, hint: str) -> str:
    return f"{problem}. {hint}" if hint else problem
