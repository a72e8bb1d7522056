"""The five models of transformers that take clicks, in miniature, random, saved as people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
PROMPTS = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 16}
LEVELS = [[32, 32], [16, 16], [8, 8]]

KINDS = ("sam", "sam_hq", "sam2", "edgetam", "sam3_tracker")


def config(kind: str) -> Any:
    import transformers as t

    if kind in ("sam", "sam_hq"):
        vision = {
            "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 128, "patch_size": 16, "window_size": 5, "global_attn_indexes": [1],
            "num_pos_feats": 16, "mlp_dim": 32, "initializer_range": 0.1,
        }  # fmt: skip
        if kind == "sam":
            return t.SamConfig(
                vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
            )
        return t.SamHQConfig(
            vision_config=vision,
            prompt_encoder_config=PROMPTS,
            mask_decoder_config={**DECODER, "vit_dim": 32},
        )
    neck = {"backbone_feature_sizes": LEVELS, "fpn_hidden_size": 32}
    if kind == "sam2":
        backbone = {
            "model_type": "sam2_hiera_det_model", "hidden_size": 16, "image_size": [128, 128],
            "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
            "num_attention_heads_per_stage": [1, 2, 2, 2], "global_attention_blocks": [3],
        }  # fmt: skip
        vision = t.Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], **neck
        ).to_dict()
        return t.Sam2Config(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    if kind == "edgetam":
        backbone = {
            "model_type": "timm_wrapper", "num_classes": 2, "architecture": "repvit_m1", "do_pooling": False,
            "model_args": {
                "in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3],
                "embed_dim": [8, 16, 24, 32], "depth": [1, 1, 1, 1],
            },
        }  # fmt: skip
        vision = t.EdgeTamVisionConfig(
            backbone_config=backbone, backbone_channel_list=[32, 24, 16, 8], **neck
        ).to_dict()
        return t.EdgeTamConfig(
            vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
        )
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 112, "patch_size": 14, "pretrain_image_size": 56,
        "window_size": 4, "global_attn_indexes": [1],
    }  # fmt: skip
    vision = t.Sam3VisionConfig(backbone_config=backbone, **neck).to_dict()
    prompts = {**PROMPTS, "image_size": 112, "patch_size": 14}
    return t.Sam3TrackerConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=DECODER
    )


def model(kind: str, seed: int = 0) -> Any:
    """Random weights; the decoder's last steps are constant over each of its cells: masks are blobs."""
    import transformers as t

    classes = {"sam": t.SamModel, "sam_hq": t.SamHQModel, "sam2": t.Sam2Model, "edgetam": t.EdgeTamModel,
               "sam3_tracker": t.Sam3TrackerModel}  # fmt: skip
    torch.manual_seed(seed)
    made = classes[kind](config(kind)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1 or "no_memory" in name:
                parameter.normal_(0, 1.0 if "hypernetworks" in name else 0.2)
        for name, layer in made.mask_decoder.named_modules():
            if isinstance(layer, torch.nn.ConvTranspose2d) and name.startswith("upscale"):
                layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight))
    return made


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """A folder with config, image processor and weights."""
    import transformers as t

    processors = {
        "sam": t.SamImageProcessor,
        "sam_hq": t.SamImageProcessor,
        "sam3_tracker": t.Sam3ImageProcessor,
    }
    made = model(kind, seed)
    made.save_pretrained(folder)
    processors.get(kind, t.Sam2ImageProcessor)().save_pretrained(folder)
    return folder
