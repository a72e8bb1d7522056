"""Load SAM checkpoints. Only tensors are unpickled, so a file cannot run code.

The architecture is inferred from the shapes of the tensors. So vit_b, vit_l, vit_h, fine-tuned copies and
smaller models of the same classes all load without a setting.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.clicks.segmenters.sam_identify import identify, identify_names
from ml_backend.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["build_sam", "file_digest", "load_sam"]

_HINT = "Run 'groundswell models pull sam_vit_b', or set GROUNDSWELL_SAM_CHECKPOINT to a SAM .pth file"
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def file_digest(path: Path) -> str:
    """sha256 hex of a file. ModelError when it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"cannot read {path} ({error.strerror})", field="sam_checkpoint", hint=_HINT
        ) from error


def load_sam(path: Path) -> tuple[Any, str]:
    """A SAM model on the CPU in eval mode, and the sha256 of its file.

    Raises ModelError when the file is missing, is no checkpoint, or does not fit the SAM architecture.
    """
    import torch

    if path.is_dir():
        raise _refused(path, "is a folder, not a checkpoint")
    digest = file_digest(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler or zip reader meets
        raise _refused(path, f"is not a readable checkpoint ({type(error).__name__})") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path} does not hold a table of tensors", field="sam_checkpoint", hint=_HINT)
    try:
        model = build_sam(state)
    except (KeyError, RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise _refused(path, f"does not fit the SAM architecture ({reason})", state) from error
    return model, digest


def _refused(path: Path, problem: str, state: dict[str, Any] | None = None) -> ModelError:
    """The error for a file that is no SAM checkpoint: what it is, if that can be told, else the problem."""
    found = identify(path) if state is None else identify_names(state)
    if found is None or "segment-anything" in found.what:
        return ModelError(f"{path} {problem}", field="sam_checkpoint", hint=_HINT)
    return ModelError(
        f"{path} is {found.what}: not a SAM checkpoint", field="sam_checkpoint", hint=found.hint
    )


def build_sam(state: dict[str, torch.Tensor]) -> Any:
    """A segment-anything ``Sam`` with these weights, in eval mode; their shapes give the architecture.

    Raises KeyError or RuntimeError when tensors are missing or have other shapes.
    """
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    patch = state["image_encoder.patch_embed.proj.weight"]
    dim, patch_size = int(patch.shape[0]), int(patch.shape[-1])
    grid = int(state["image_encoder.pos_embed"].shape[1])
    blocks = 1 + max(int(k.split(".")[2]) for k in state if k.startswith("image_encoder.blocks."))
    spans = [int(state[f"image_encoder.blocks.{i}.attn.rel_pos_h"].shape[0]) for i in range(blocks)]
    head_dim = int(state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1])
    whole = [i for i, span in enumerate(spans) if span == 2 * grid - 1]
    windowed = [span for span in spans if span != 2 * grid - 1]
    hidden = int(state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0])
    out = int(state["image_encoder.neck.0.weight"].shape[0])
    layers = 1 + max(int(k.split(".")[3]) for k in state if k.startswith("mask_decoder.transformer.layers."))
    head_layers = 1 + max(
        int(k.split(".")[3]) for k in state if k.startswith("mask_decoder.iou_prediction_head.layers.")
    )
    size = grid * patch_size
    model = Sam(
        image_encoder=ImageEncoderViT(
            depth=blocks,
            embed_dim=dim,
            img_size=size,
            mlp_ratio=hidden / dim,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=dim // head_dim,
            patch_size=patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=tuple(whole),
            window_size=(windowed[0] + 1) // 2 if windowed else 14,
            out_chans=out,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=out,
            image_embedding_size=(grid, grid),
            input_image_size=(size, size),
            mask_in_chans=int(state["prompt_encoder.mask_downscaling.3.weight"].shape[0]),
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=int(state["mask_decoder.mask_tokens.weight"].shape[0]) - 1,
            transformer=TwoWayTransformer(
                depth=layers,
                embedding_dim=out,
                mlp_dim=int(state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]),
                num_heads=8,
            ),
            transformer_dim=out,
            iou_head_depth=head_layers,
            iou_head_hidden_dim=int(state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]),
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    model.load_state_dict(state)
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model
