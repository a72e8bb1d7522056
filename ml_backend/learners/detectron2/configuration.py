"""detectron2's configuration of a network, from our options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_backend.devices import resolve_device

__all__ = ["ZOO_WEIGHTS", "configuration"]

_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
ZOO_WEIGHTS = {
    "fcn": "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
    "pointrend": "detectron2://PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/164955410/"
    "model_final_edd263.pkl",
}
"""Published weights by mask head, trained on COCO."""


def configuration(
    labels: Sequence[str], options: Mapping[str, Any], device: str, *, seed: int, norm: str
) -> Any:
    """A ``CfgNode`` for these labels and options.

    ``norm``: ``frozen`` for published weights, which bring the statistics of their batch normalisation along,
    or ``group`` for random ones. Frozen normalisation without statistics does nothing at all, and a ResNet of
    50 layers without normalisation diverges.
    """
    import detectron2
    from detectron2.config import get_cfg

    cfg = get_cfg()
    if options["mask_head"] == "pointrend":
        from detectron2.projects.point_rend import add_pointrend_config

        add_pointrend_config(cfg)
    # read as a file: detectron2.model_zoo imports pkg_resources, which setuptools has no more
    cfg.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / _CONFIG))
    if options["mask_head"] == "pointrend":
        _use_pointrend(cfg, len(labels))
    cfg.SEED = seed
    cfg.MODEL.DEVICE = resolve_device(device)
    cfg.MODEL.WEIGHTS = ""
    if norm == "group":
        cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "GN"
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        cfg.MODEL.BACKBONE.FREEZE_AT = 0  # the first layers have nothing worth keeping
        cfg.MODEL.PIXEL_STD = [57.375, 57.12, 58.395]
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
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"  # the usual one needs two drops, so 4 iterations
    cfg.SOLVER.WARMUP_ITERS = max(1, options["iterations"] // 10)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 5.0
    return cfg


def _use_pointrend(cfg: Any, classes: int) -> None:
    """PointRend's own settings (Kirillov et al., CVPR 2020), with masks of 56 × 56 cells as in the published
    loop of cluster questions."""
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    head = cfg.MODEL.ROI_MASK_HEAD
    head.NAME, head.POOLER_TYPE = "PointRendMaskHead", ""
    head.FC_DIM, head.NUM_FC, head.OUTPUT_SIDE_RESOLUTION = 1024, 2, 7
    head.IN_FEATURES, head.POINT_HEAD_ON = ["p2"], True
    points = cfg.MODEL.POINT_HEAD
    points.NUM_CLASSES, points.IN_FEATURES = classes, ["p2"]
    points.FC_DIM, points.NUM_FC = 256, 3
    points.SUBDIVISION_STEPS = 3
