"""Complete-instance mining as a learner: tags of pictures in, instances out (Li et al., IJCAI 2023)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.artifacts.files import write_json
from ml_backend.devices import resolve_device
from ml_backend.errors import BadInput, ModelError
from ml_backend.learners.base import Predictor, Progress, TrainReport, TrainSpec
from ml_backend.learners.maskrcnn.learner import MaskRcnn
from ml_backend.learners.version_files import CONFIG, WEIGHTS, load_weights, read_description
from ml_backend.learners.weak.settings import cim_settings

if TYPE_CHECKING:
    from ml_backend.learners.weak.predictor import CimPredictor

__all__ = ["Cim"]

REFINED = "refined"


class Cim:
    """Learner ``cim``. torch is imported by the methods, not by this module.

    An example's ``tags`` say what the picture shows. Masks drawn on some pictures are true instances, and
    very small ones (points) say where objects are. A picture without tags shows none of the labels.
    """

    name = "cim"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        cim_settings(preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train into ``out``: the heads, and in ``refined`` the Mask R-CNN that learnt from their instances.

        Raises BadInput when no picture has a tag, ModelError when no picture can be used.
        """
        import torch

        from ml_backend.learners.readable_examples import nothing_left, readable_examples
        from ml_backend.learners.weak.dataset import make_bags
        from ml_backend.learners.weak.evaluation import evaluate_weak
        from ml_backend.learners.weak.pseudo import pseudo_examples
        from ml_backend.learners.weak.training import train_heads
        from ml_backend.learners.weights import save_weights

        started = time.monotonic()
        settings, later = cim_settings(spec.preset, spec.options)
        if spec.train and not any(example.tags or example.rle for example in spec.train):
            raise BadInput("no picture has a tag", field="train", hint="Say of some pictures what they show")
        train, test = readable_examples(spec.train), readable_examples(spec.test)
        if not train.kept or not spec.labels:
            raise nothing_left(train.left_out)
        device = torch.device(resolve_device(spec.device))
        examples, bags, empty = make_bags(
            train.kept,
            len(spec.labels),
            settings,
            seed=spec.seed,
            progress=lambda share, line: progress(0.4 * share, line),
        )
        if not any(bag.tags.any() for bag in bags):
            raise ModelError(
                "no proposals were found on any picture with a tag",
                field="train",
                hint="Are the pictures blank? Raise the option work_side if the objects are tiny",
            )
        heads, fitted = train_heads(
            bags,
            len(spec.labels),
            settings,
            seed=spec.seed,
            device=device,
            progress=lambda share, line: progress(0.4 + 0.15 * share, line),
            folder=None if spec.resume is None else spec.resume / "heads",
        )
        heads.cpu()
        out.mkdir(parents=True, exist_ok=True)
        save_weights(heads.state_dict(), out / WEIGHTS)
        said = f"{settings.proposals} proposals of {len(bags)} pictures"
        refine = settings.refine == "on" and not spec.seconds  # an early version must be quick
        write_json(
            out / CONFIG,
            {
                "learner": self.name,
                "started_from": said,
                "labels": list(spec.labels),
                "features": int(bags[0].features.shape[1]),
                "refined": refine,
                **dataclasses.asdict(settings),
            },
        )
        if refine:
            pseudo = pseudo_examples(
                heads, examples, bags, threshold=settings.pseudo_threshold, nms=settings.nms
            )
            start = None if spec.start is None else spec.start / REFINED
            refined = dataclasses.replace(
                spec,
                train=tuple(pseudo),
                test=(),
                start=start if start is not None and start.is_dir() else None,
                options=later,
                resume=None if spec.resume is None else spec.resume / REFINED,
            )
            done = MaskRcnn().train(refined, out / REFINED, lambda s, line: progress(0.55 + 0.4 * s, line))
            said += f"; {done.started_from}"
        evaluation = evaluate_weak(
            self.load(out, device=spec.device), self._heads(out), test.kept, spec.labels
        )
        best = evaluation.metrics.get("AP50") or evaluation.metrics.get("tags")
        progress(1.0, f"{best[0]:.3f} on {evaluation.n_images} images" if best else "nothing to test on")
        return TrainReport(
            learner=self.name,
            started_from=said,
            iterations=fitted.steps,
            seconds=time.monotonic() - started,
            evaluation=evaluation,
            history=fitted.history,
            left_out=train.left_out + empty + test.left_out,
            cut_short=settings.refine == "on" and not refine,
        )

    def load(self, folder: Path, *, device: str = "auto") -> Predictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        if _read(folder)["refined"]:
            return MaskRcnn().load(folder / REFINED, device=device)
        return self._heads(folder)

    def export(self, folder: Path, out: Path) -> Path:
        """Write the Mask R-CNN of a refined version as TorchScript, see ``MaskRcnn.export``.

        Raises ModelError for a version without one: its proposals are no part of a network.
        """
        if not _read(folder)["refined"]:
            raise ModelError(
                "a version of 'cim' that is not refined cannot be exported: its proposals are no network",
                hint="Train with the option refine=on",
            )
        return MaskRcnn().export(folder / REFINED, out)

    def _heads(self, folder: Path) -> CimPredictor:
        from ml_backend.learners.weak.heads import Heads
        from ml_backend.learners.weak.predictor import CimPredictor
        from ml_backend.learners.weak.sources import get_source

        value = _read(folder)
        try:
            labels = tuple(str(v) for v in value["labels"])
            heads = Heads(int(value["features"]), len(labels), width=int(value["width"]))
            load_weights(heads, folder)
            return CimPredictor(
                heads,
                labels,
                get_source(str(value["proposals"]), int(value["most"])),
                most=int(value["most"]),
                work_side=int(value["work_side"]),
                threshold=float(value["score_threshold"]),
                nms=float(value["nms"]),
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"the description in {folder} is damaged: {error!r}", field=CONFIG) from error


def _read(folder: Path) -> dict[str, Any]:
    value = read_description(folder, Cim.name)
    if not isinstance(value.get("refined"), bool):
        raise ModelError(f"the description in {folder} is damaged", field=CONFIG)
    return value
