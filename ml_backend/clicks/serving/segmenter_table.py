"""The table of click segmenters: names, what each needs, and where it is built. Imports none of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AUTO", "SEGMENTERS", "SegmenterEntry"]

AUTO = "auto"
"""Not a segmenter of its own: it stands for the best of the others, see ``auto_choice``."""


@dataclass(frozen=True, slots=True)
class SegmenterEntry:
    """One row of the table.

    ``factory`` is ``module:function``, called with (settings, project). ``needs`` lists the modules it
    imports, ``weights`` the settings that name its weights; the first that is set counts. ``inspect`` is
    ``module:function`` as well, called in the same way: it gives an ``Inspection`` of the weights without
    loading them; empty: the file must exist. ``licence`` is that of the weights which their authors
    published, empty where there are none.
    """

    name: str
    summary: str
    factory: str
    needs: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    needs_project: bool = False
    licence: str = ""
    inspect: str = ""

    @property
    def needs_checkpoint(self) -> bool:
        """Whether it needs weights that somebody else trained."""
        return bool(self.weights)


SEGMENTERS: dict[str, SegmenterEntry] = {
    entry.name: entry
    for entry in (
        SegmenterEntry(
            AUTO,
            "the best of the others that can serve here; the default",
            "ml_backend.clicks.serving.auto_choice:from_settings",
        ),
        SegmenterEntry(
            "classical",
            "closed outlines and colour models, no weights",
            "ml_backend.clicks.segmenters.classical:from_settings",
        ),
        SegmenterEntry(
            "shipped",
            "the click network that comes with the package, trained on pictures of other people",
            "ml_backend.clicks.segmenters.shipped:from_settings",
            needs=("onnxruntime",),
            inspect="ml_backend.clicks.segmenters.shipped:inspect",
        ),
        SegmenterEntry(
            "sam",
            "segment-anything checkpoint (vit_b, vit_l, vit_h) in torch",
            "ml_backend.clicks.segmenters.sam:from_settings",
            needs=("torch", "segment_anything"),
            weights=("sam_checkpoint",),
            licence="SAM: Apache-2.0; others: see the model's card",
            inspect="ml_backend.clicks.segmenters.sam:inspect",
        ),
        SegmenterEntry(
            "sam-onnx",
            "encoder and decoder of the SAM family in onnxruntime (SAM, MobileSAM, EfficientSAM)",
            "ml_backend.clicks.segmenters.sam_onnx:from_settings",
            needs=("onnxruntime",),
            weights=("sam_onnx", "sam_checkpoint"),
            licence="SAM, MobileSAM, EfficientSAM: Apache-2.0; others: see the model's card",
            inspect="ml_backend.clicks.segmenters.sam_onnx:inspect",
        ),
        SegmenterEntry(
            "click-onnx",
            "click network exported to ONNX (RITM, FocalClick, SimpleClick)",
            "ml_backend.clicks.segmenters.click_onnx:from_settings",
            needs=("onnxruntime",),
            weights=("click_onnx", "sam_checkpoint"),
            licence="unknown, see where the network comes from",
        ),
        SegmenterEntry(
            "hf",
            "SAM, HQ-SAM, SAM 2, EdgeTAM or SAM 3 through transformers, from a folder or a name on the hub",
            "ml_backend.clicks.segmenters.hf:from_settings",
            needs=("torch", "transformers"),
            weights=("hf_model",),
            inspect="ml_backend.clicks.segmenters.hf_models:inspect",
        ),
        SegmenterEntry(
            "project",
            "click network trained on this project's own finished masks",
            "ml_backend.clicks.serving.catalog:project_segmenter",
            needs=("torch",),
            needs_project=True,
            inspect="ml_backend.clicks.serving.catalog:inspect_project",
        ),
    )
}
