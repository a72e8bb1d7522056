"""Mask R-CNN of detectron2 (Wu et al. 2019) as a learner.

detectron2 is not a dependency. It is built from source, see docs/detectron2.md, so it is imported only inside
functions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_backend.artifacts.files import write_json
from ml_backend.errors import ModelError
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.detectron2.configuration import configuration
from ml_backend.learners.detectron2.predictor import Detectron2Predictor
from ml_backend.learners.detectron2.settings import detectron2_options
from ml_backend.learners.version_files import CONFIG, WEIGHTS, load_weights, read_description

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Detectron2", "Detectron2Predictor"]


class Detectron2:
    """Learner ``detectron2``: Mask R-CNN with a ResNet-50 FPN, as in detectron2's model zoo.

    Options: ``iterations``; ``batch`` (pictures per iteration); ``size`` (short side of a picture in pixels);
    ``lr`` (learning rate); ``max_detections`` per picture; ``score_threshold``; ``mask_head``: ``fcn`` or
    ``pointrend``; ``weights`` to start from: ``auto`` (those of the zoo, trained on COCO, if they can be
    downloaded), ``none``, or a path.
    """

    name = "detectron2"

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        """Raises BadInput naming the preset or option that is wrong."""
        detectron2_options(preset, options)

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        """Train a version and write it to the folder ``out``.

        Raises ModelError when detectron2 is not installed, the loss is not a number or no picture can be
        read; BadInput for a wrong option or when there is nothing to train on.
        """
        _require()
        import torch
        from detectron2.data import build_detection_train_loader
        from detectron2.data.common import DatasetFromList, MapDataset
        from detectron2.modeling import build_model
        from detectron2.solver import build_lr_scheduler, build_optimizer
        from detectron2.utils.events import EventStorage
        from safetensors.torch import save_file

        from ml_backend.images.decode import read_image
        from ml_backend.learners.detectron2.records import TrainingMapper, record_of
        from ml_backend.learners.detectron2.start_weights import norm_of, take
        from ml_backend.learners.evaluation import evaluate
        from ml_backend.learners.readable_examples import with_readable

        started = time.monotonic()
        options = detectron2_options(spec.preset, spec.options)
        spec, left_out = with_readable(spec)
        if spec.start is not None:
            # its mask head and normalisation belong to its weights
            options["mask_head"] = _options_of(spec.start)["mask_head"]
        state, started_from = _start(spec, options)
        norm = norm_of(state)
        cfg = configuration(spec.labels, options, spec.device, seed=spec.seed, norm=norm)
        torch.manual_seed(spec.seed)
        model = build_model(cfg)
        if state is not None:
            started_from += take(model, state, started_from)
        progress(0.0, f"starting from {started_from}, on {cfg.MODEL.DEVICE}")
        records = [record_of(example) for example in spec.train if example.rle]
        dataset = MapDataset(DatasetFromList(records, copy=True), TrainingMapper(cfg))
        loader = build_detection_train_loader(
            dataset, mapper=None, total_batch_size=options["batch"], num_workers=0
        )
        optimiser = build_optimizer(cfg, model)
        schedule = build_lr_scheduler(cfg, optimiser)
        iterations = int(options["iterations"])
        history: list[tuple[int, float]] = []
        recent: list[float] = []
        model.train()
        with EventStorage(0) as storage:
            for step, batch in zip(range(1, iterations + 1), loader, strict=False):
                loss = sum(model(batch).values())
                if not np.isfinite(float(loss.detach())):
                    raise ModelError(
                        f"the loss is not a number at iteration {step}", hint="Lower the option lr"
                    )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                storage.step()
                recent.append(float(loss.detach()))
                if step % max(1, iterations // 20) == 0 or step == iterations:
                    history.append((step, round(sum(recent) / len(recent), 4)))
                    recent.clear()
                    progress(
                        0.9 * step / iterations, f"iteration {step}/{iterations}, loss {history[-1][1]:.3f}"
                    )
        out.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()},
            str(out / WEIGHTS),
        )
        description = {
            "learner": self.name,
            "labels": list(spec.labels),
            "options": options,
            "norm": norm,
            "started_from": started_from,
        }
        write_json(out / CONFIG, description)
        predictor = self.load(out, device=spec.device)
        found = [next(predictor.predict([read_image(example.image)])) for example in spec.test]
        evaluation = evaluate(found, spec.test, spec.labels, max_detections=options["max_detections"])
        progress(1.0, f"evaluated on {evaluation.n_images} images")
        return TrainReport(
            learner=self.name,
            started_from=started_from,
            iterations=iterations,
            seconds=time.monotonic() - started,
            evaluation=evaluation,
            history=tuple(history),
            left_out=left_out,
        )

    def load(self, folder: Path, *, device: str = "auto") -> Detectron2Predictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        _require()
        from detectron2.modeling import build_model

        description = read_description(folder, Detectron2.name)
        labels = tuple(str(label) for label in description["labels"])
        cfg = configuration(
            labels, _options_of(folder), device, seed=0, norm=description.get("norm", "frozen")
        )
        model = build_model(cfg)
        load_weights(model, folder)
        return Detectron2Predictor(model.eval(), cfg, labels)

    def export(self, folder: Path, out: Path) -> Path:
        """Write the version as TorchScript, traced by detectron2, and a JSON file beside it; returns ``out``.

        Its input is one picture, (3, h, w) float32 in BGR order, 0..255, resized by the caller. Raises
        ModelError as ``load`` does.
        """
        _require()
        import torch
        from detectron2.export import TracingAdapter

        predictor = self.load(folder, device="cpu")
        sample = torch.zeros(3, predictor.size, predictor.size)
        adapter = TracingAdapter(predictor.model, [{"image": sample}])
        traced = torch.jit.trace(adapter, (sample,))  # type: ignore[no-untyped-call]
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.jit.save(traced, str(out))
        write_json(
            out.with_suffix(".json"),
            {
                "format": "torchscript",
                "labels": list(predictor.labels),
                "input": "(3, h, w) float BGR 0..255",
            },
        )
        return out


def _start(spec: TrainSpec, options: Mapping[str, Any]) -> tuple[Mapping[str, Tensor] | None, str]:
    """Weights to start from and a sentence about them. Raises ModelError when they cannot be read."""
    from ml_backend.learners.detectron2.start_weights import start_state
    from ml_backend.learners.weights import read_weights

    if spec.start is None:
        return start_state(options["weights"], options["mask_head"])
    state = read_weights(spec.start / WEIGHTS)
    if [str(label) for label in read_description(spec.start, Detectron2.name)["labels"]] != list(spec.labels):
        # the last layers have an output per class: they start anew
        state = {name: tensor for name, tensor in state.items() if "predict" not in name}
    return state, f"version {spec.start.name}"


def _options_of(folder: Path) -> dict[str, Any]:
    """The options of a version; those it was written without have their defaults."""
    stored: dict[str, Any] = read_description(folder, Detectron2.name)["options"]
    return detectron2_options("light", {}) | stored


def _require() -> None:
    try:
        import detectron2  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "detectron2 is not installed",
            hint="Build it from source as docs/detectron2.md says, or use learner maskrcnn",
        ) from error
