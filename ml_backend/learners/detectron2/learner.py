"""Mask R-CNN of detectron2 (Wu et al. 2019) as a learner.

detectron2 is not a dependency. It is built from source, see docs/detectron2.md, so it is imported only inside
functions.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_backend.artifacts.files import read_json, write_json
from ml_backend.devices import resolve_device
from ml_backend.errors import ModelError
from ml_backend.examples import Example
from ml_backend.instances import Instances
from ml_backend.learners.base import Progress, TrainReport, TrainSpec
from ml_backend.learners.detectron2.settings import detectron2_options
from ml_backend.masks.empty import without_empty_masks

__all__ = ["Detectron2", "Detectron2Predictor"]

log = logging.getLogger(__name__)

WEIGHTS, CONFIG = "weights.safetensors", "learner.json"
_ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"


class Detectron2:
    """Learner ``detectron2``: Mask R-CNN with a ResNet-50 FPN, as in detectron2's model zoo.

    Options: ``iterations``; ``batch`` (pictures per iteration); ``size`` (short side of a picture in pixels);
    ``lr`` (learning rate); ``max_detections`` per picture; ``score_threshold``; ``weights`` to start from:
    ``auto`` (those of the zoo, trained on COCO, if they can be downloaded), ``none``, or a path.
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
        from detectron2.data import build_detection_train_loader
        from detectron2.data.common import DatasetFromList, MapDataset
        from detectron2.modeling import build_model
        from detectron2.solver import build_lr_scheduler, build_optimizer
        from detectron2.utils.events import EventStorage
        from safetensors.torch import save_file

        from ml_backend.images.decode import read_image
        from ml_backend.learners.evaluation import evaluate
        from ml_backend.learners.readable_examples import nothing_left, readable_examples

        started = time.monotonic()
        options = detectron2_options(spec.preset, spec.options)
        train, test = readable_examples(spec.train), readable_examples(spec.test)
        if not spec.labels or not any(example.rle for example in train.kept):
            raise nothing_left(train.left_out)
        spec = dataclasses.replace(spec, train=train.kept, test=test.kept)
        cfg = _config(spec.labels, options, spec.device, seed=spec.seed)
        model = build_model(cfg)
        started_from = _load_start_weights(model, spec, options)
        progress(0.0, f"starting from {started_from}, on {cfg.MODEL.DEVICE}")
        records = [_record(example) for example in spec.train if example.rle]
        dataset = MapDataset(DatasetFromList(records, copy=True), _Mapper(cfg))
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
            left_out=train.left_out + test.left_out,
        )

    def load(self, folder: Path, *, device: str = "auto") -> Detectron2Predictor:
        """Load a version written by ``train``. Raises ModelError when files are missing or do not fit."""
        _require()
        from detectron2.modeling import build_model

        from ml_backend.learners.weights import read_weights

        description = _description(folder)
        labels = tuple(str(label) for label in description["labels"])
        cfg = _config(labels, description["options"], device, seed=0)
        model = build_model(cfg)
        try:
            model.load_state_dict(read_weights(folder / WEIGHTS))
        except RuntimeError as error:
            raise ModelError(f"the weights in {folder} do not fit their description") from error
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


class Detectron2Predictor:
    """One loaded version. Safe under threads: one picture at a time."""

    def __init__(self, model: Any, cfg: Any, labels: tuple[str, ...]) -> None:
        from ml_backend.learners.embedding import EMBEDDING_DIM, projection_matrix

        self.labels = labels
        self.embedding_dim = EMBEDDING_DIM
        self.model = model
        self.nbytes = sum(tensor.nbytes for tensor in model.state_dict().values())
        self.size = int(cfg.INPUT.MIN_SIZE_TEST)
        self._largest = int(cfg.INPUT.MAX_SIZE_TEST)
        self._lock = threading.Lock()
        self._projection = projection_matrix(256 * 49).to(model.device)

    def predict(self, images: Sequence[npt.NDArray[np.uint8]]) -> Iterator[Instances]:
        """Instances of each (H, W, 3) uint8 RGB image, in order."""
        for image in images:
            with self._lock:
                yield self._one(image)

    def _one(self, image: npt.NDArray[np.uint8]) -> Instances:
        import torch
        from detectron2.data.transforms import ResizeShortestEdge

        from ml_backend.learners.embedding import expected_iou, mask_attention
        from ml_backend.learners.mask_pasting import paste_masks, without_specks

        height, width = image.shape[:2]
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        resize = ResizeShortestEdge([self.size, self.size], self._largest).get_transform(bgr)
        pixels = torch.as_tensor(resize.apply_image(bgr).astype("float32").transpose(2, 0, 1))
        with torch.inference_mode():
            batch = self.model.preprocess_image([{"image": pixels}])
            features = self.model.backbone(batch.tensor)
            proposals, _ = self.model.proposal_generator(batch, features, None)
            found = self.model.roi_heads(batch, features, proposals, None)[0][0]
            if not len(found):
                return Instances.empty(self.embedding_dim)
            probability = found.pred_masks[:, 0].float()
            grid = without_specks(probability.cpu().numpy().astype(np.float32))
            heads = self.model.roi_heads
            roi = heads.box_pooler([features[name] for name in heads.box_in_features], [found.pred_boxes])
            embedding = mask_attention(roi, probability, self._projection)
            quality = expected_iou(probability)
            net_h, net_w = found.image_size
            back = found.pred_boxes.tensor.new_tensor([width / net_w, height / net_h] * 2)
            box_xyxy = (found.pred_boxes.tensor * back).cpu().numpy().astype(np.float32)
        instances = Instances(
            label=found.pred_classes.cpu().numpy().astype(np.int64),
            box_xyxy=box_xyxy,
            # The masks need no shift: detectron2 cuts its mask targets with aligned sampling.
            rle=paste_masks(grid, box_xyxy, (height, width)),
            score=found.scores.cpu().numpy().astype(np.float32),
            quality=quality.cpu().numpy().astype(np.float32),
            embedding=embedding.cpu().numpy().astype(np.float32),
        )
        return without_empty_masks(instances)


class _Mapper:
    """Turns a record into a training sample: its masks and the picture, resized and flipped at random."""

    def __init__(self, cfg: Any) -> None:
        from detectron2.data.transforms import AugmentationList, RandomFlip, ResizeShortestEdge

        sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
        self._augment = AugmentationList(
            [ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN, "choice"), RandomFlip()]
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        import torch
        from detectron2.data.detection_utils import annotations_to_instances, filter_empty_instances
        from detectron2.data.detection_utils import transform_instance_annotations as move
        from detectron2.data.transforms import AugInput

        from ml_backend.images.decode import read_image

        record = copy.copy(record)
        given = AugInput(np.ascontiguousarray(read_image(record["file_name"])[:, :, ::-1]))
        transforms = self._augment(given)
        hw = given.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        annotations = [move(copy.deepcopy(a), transforms, hw) for a in record.pop("annotations")]
        found = annotations_to_instances(annotations, hw, mask_format="bitmask")
        found.gt_boxes = found.gt_masks.get_bounding_boxes()
        record["instances"] = filter_empty_instances(found)
        return record


def _record(example: Example) -> dict[str, Any]:
    """An example in the form of detectron2's datasets."""
    from detectron2.structures import BoxMode
    from pycocotools import mask as coco_mask

    height, width = (int(v) for v in example.rle[0]["size"])  # type: ignore[attr-defined]
    return {
        "file_name": str(example.image),
        "image_id": example.task_id,
        "height": height,
        "width": width,
        "annotations": [
            {
                "bbox": coco_mask.toBbox(dict(rle)).tolist(),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": label,
                "segmentation": dict(rle),
                "iscrowd": 0,
            }
            for label, rle in zip(example.label, example.rle, strict=True)
        ],
    }


def _config(labels: Sequence[str], options: dict[str, Any], device: str, *, seed: int) -> Any:
    """detectron2's configuration (a ``CfgNode``) for these labels and options."""
    from detectron2 import model_zoo

    cfg = model_zoo.get_config(_ZOO)
    cfg.SEED = seed
    cfg.MODEL.DEVICE = resolve_device(device)
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(labels)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = options["score_threshold"]
    cfg.TEST.DETECTIONS_PER_IMAGE = options["max_detections"]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 128
    # Half of the default sizes, whose smallest is 32 pixels: objects are often small here.
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.INPUT.MASK_FORMAT = "bitmask"
    size = int(options["size"])
    cfg.INPUT.MIN_SIZE_TRAIN = (int(0.8 * size), size, int(1.2 * size))
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = int(size * 5 / 3)
    cfg.INPUT.MIN_SIZE_TEST = size
    cfg.SOLVER.IMS_PER_BATCH = options["batch"]
    cfg.SOLVER.BASE_LR = options["lr"]
    cfg.SOLVER.MAX_ITER = options["iterations"]
    cfg.SOLVER.STEPS = (int(0.7 * options["iterations"]), int(0.9 * options["iterations"]))
    cfg.SOLVER.WARMUP_ITERS = max(1, options["iterations"] // 10)
    return cfg


def _load_start_weights(model: Any, spec: TrainSpec, options: dict[str, Any]) -> str:
    """Load the weights to start from into ``model``; returns words that say which.

    They are those of ``spec.start``, where it is set, else what the option ``weights`` names. Raises
    ModelError when a version or file cannot be read.
    """
    from ml_backend.learners.weights import read_weights

    if spec.start is not None:
        before = [str(label) for label in _description(spec.start)["labels"]]
        state = read_weights(spec.start / WEIGHTS)
        if before != list(spec.labels):  # the last layers have an output per class: they start anew
            state = {k: v for k, v in state.items() if "predictor" not in k}
        own = model.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict({**own, **fitting})
        return f"version {spec.start.name}"
    if options["weights"] == "none":
        _unfreeze(model)
        return "random weights (published ones were not wanted)"
    from detectron2 import model_zoo
    from detectron2.checkpoint import DetectionCheckpointer

    wanted = model_zoo.get_checkpoint_url(_ZOO) if options["weights"] == "auto" else options["weights"]
    try:
        DetectionCheckpointer(model).load(wanted)
    except (OSError, RuntimeError, AssertionError, pickle.UnpicklingError) as error:
        if options["weights"] != "auto":
            raise ModelError(f"{wanted} cannot be read as weights: {error}") from error
        _unfreeze(model)
        return f"random weights (the published ones could not be loaded: {error})"
    return f"published weights: {wanted}"


def _unfreeze(model: Any) -> None:
    """Train all layers. detectron2 freezes the first ones, which makes sense for published weights only.

    Its frozen batch normalisation can stay: with its initial values it has no effect.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _description(folder: Path) -> dict[str, Any]:
    """What ``train`` wrote about a version. Raises ModelError when it is not one of this learner."""
    try:
        description: dict[str, Any] = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no model: {error}", hint="Train again") from error
    if description.get("learner") != Detectron2.name:
        raise ModelError(f"{folder} was made by learner {description.get('learner')!r}, not detectron2")
    return description


def _require() -> None:
    try:
        import detectron2  # noqa: F401
    except ImportError as error:
        raise ModelError(
            "detectron2 is not installed",
            hint="Build it from source as docs/detectron2.md says, or use learner maskrcnn",
        ) from error
