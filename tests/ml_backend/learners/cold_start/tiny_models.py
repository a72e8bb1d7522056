"""Models of transformers in miniature, with random weights, saved as people have them: a folder each."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertTokenizer,
    CLIPTokenizer,
    DFineConfig,
    DFineForObjectDetection,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    RTDetrImageProcessor,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

WORDS = ("disc", "square", "round", "thing", "flat", "box")


def clip_tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    letters = [*string.ascii_lowercase]
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    vocab = {piece: i for i, piece in enumerate(["!", "<|endoftext|>", "<|startoftext|>", *pieces])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def owl(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=sizes
        | {"vocab_size": 60, "max_position_embeddings": 16}
        | {"bos_token_id": 2, "eos_token_id": 1},
        vision_config=sizes | {"image_size": 96, "patch_size": 16},
        projection_dim=16,
    )
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    image = Owlv2ImageProcessor(size={"height": 96, "width": 96})
    Owlv2Processor(image, clip_tokenizer(folder, 16)).save_pretrained(folder)
    return folder


def dfine(folder: Path, names: tuple[str, ...]) -> Path:
    torch.manual_seed(0)
    DFineForObjectDetection(dfine_config(names)).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def dfine_config(names: tuple[str, ...]) -> Any:
    backbone = {
        "model_type": "hgnet_v2",
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 16, 16],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
        "hidden_sizes": [16, 16, 16, 16],
        "embedding_size": 8,
    }
    from transformers import AutoConfig

    return DFineConfig(
        backbone_config=AutoConfig.for_model(**backbone),
        encoder_in_channels=[16, 16, 16],
        encoder_hidden_dim=16,
        encoder_ffn_dim=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        decoder_in_channels=[16, 16, 16],
        d_model=16,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_n_points=[2, 2, 2],
        num_queries=20,
        num_denoising=0,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )


def grounding_dino(folder: Path) -> Path:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocab)})
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
            "window_size": 4,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(vocab),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        num_queries=15,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        d_model=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        fusion_droppath=0.0,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    image = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(image, tokenizer).save_pretrained(folder)
    return folder


def sam3(folder: Path) -> Path:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    config = Sam3Config(
        vision_config={
            "model_type": "sam3_vision_model",
            "fpn_hidden_size": 32,
            "backbone_config": small
            | {
                "model_type": "sam3_vit_model",
                "num_hidden_layers": 2,
                "image_size": 112,
                "pretrain_image_size": 56,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
        },
        text_config={
            "vocab_size": 60,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "projection_dim": 16,
            "eos_token_id": 1,
        },
        geometry_encoder_config=small | {"num_layers": 1},
        detr_encoder_config=small | {"num_layers": 1},
        detr_decoder_config=small | {"num_layers": 1, "num_queries": 10},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2, "num_upsampling_stages": 3},
    )
    Sam3Model(config).save_pretrained(folder)
    image = Sam3ImageProcessor(size={"height": 112, "width": 112})
    Sam3Processor(image, clip_tokenizer(folder, 32)).save_pretrained(folder)
    return folder


def sam(folder: Path) -> Path:
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "mlp_dim": 32,
            "window_size": 2,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 64,
            "patch_size": 16,
            "image_embedding_size": 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    SamModel(config).save_pretrained(folder)
    image = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(image).save_pretrained(folder)
    return folder
