"""The benchmark compares like with like: its bare calls give the mask that the segmenter gives."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from bench.click_setup import make_pictures
from bench.hf_setup import BareHf, save_random_hf
from ml_backend.clicks.base import Prompt
from ml_backend.clicks.segmenters.hf import HfSegmenter
from ml_backend.clicks.segmenters.hf_models import load_model
from ml_backend.clicks.segmenters.honour_clicks import honour_clicks


def test_bare_calls_and_segmenter_agree(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = save_random_hf("small", tmp_path / "small")
    image = np.asarray(cv2.imread(str(make_pictures(tmp_path, 1, hw=(96, 128))[0])), np.uint8)
    bare, ours = BareHf(folder, "float32"), HfSegmenter(*load_model(folder))
    bare.encode(image)
    embedding = ours.embed(image)
    for x, y in ((30.0, 40.0), (100.0, 20.0)):
        prompt = Prompt(((x, y, True),), None, "")
        whole = bare.click(x, y)
        wanted = honour_clicks(np.where(whole, 1.0, -1.0).astype(np.float32), prompt, None)
        found = ours.segment(embedding, prompt, None).masks[0]
        assert (wanted & found).sum() / (wanted | found).sum() > 0.95
