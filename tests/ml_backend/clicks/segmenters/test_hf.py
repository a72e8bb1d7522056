"""The segmenter `hf` on small models of five kinds, against transformers' own calls and SAM's package."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from segment_anything import SamPredictor

from bench.click_setup import sam_as_hf
from ml_backend.clicks.base import Prompt, StartMask
from ml_backend.clicks.device_gate import DeviceGate
from ml_backend.clicks.segmenters.hf import HfSegmenter, from_settings
from ml_backend.clicks.segmenters.hf_models import (
    FAMILIES,
    find_folder,
    inspect,
    load_model,
    pulled_folder,
)
from ml_backend.clicks.segmenters.honour_clicks import honour_clicks
from ml_backend.clicks.serving.embeddings import EmbeddingStore
from ml_backend.clicks.serving.segmenter_list import list_segmenters
from ml_backend.clicks.start_masks import start_mask_from
from ml_backend.device_fallback import DeviceFallback
from ml_backend.errors import BadPrompt, ModelError
from ml_backend.settings import BackendSettings
from tests.ml_backend.clicks.hf_folders import KINDS, save
from tests.ml_backend.clicks.sam_models import picture, small_sam

HW = (90, 130)
POINTS = ((60.0, 45.0, True), (20.0, 70.0, False), (101.0, 30.0, True))
BOX = (20.0, 10.0, 100.0, 80.0)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save(request.param, tmp_path_factory.mktemp("hf") / request.param)


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("sam2", tmp_path_factory.mktemp("hf") / "sam2")


def settings(model: Path | str, **changes: Any) -> BackendSettings:
    return BackendSettings(hf_model=str(model), device="cpu", segmenter="hf", **changes)


def iou(a: Any, b: Any) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def bare(folder: Path, image: Any, prompt: Prompt, fed: Any) -> tuple[Any, float, Any]:
    """(full logits (H, W), predicted IoU, low-resolution logits (1, low, low)) by transformers' own calls,
    from pixels, without a kept embedding.
    """
    squeezes = "sam2" in folder.name or "edge" in folder.name or "sam3" in folder.name
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    images = {"sam3_tracker": transformers.Sam3ImageProcessor}.get(
        kind, transformers.Sam2ImageProcessor if squeezes else transformers.SamImageProcessorPil
    )()
    model = getattr(transformers, FAMILIES[kind].model).from_pretrained(folder).eval()
    size = int(model.prompt_encoder.input_image_size)
    side = {"height": size, "width": size}
    images.size = side if squeezes else {"longest_edge": size}
    images.pad_size = None if squeezes else side
    processor = {"sam": transformers.SamProcessor, "sam_hq": transformers.SamHQProcessor}.get(
        kind, transformers.Sam3TrackerProcessor if kind == "sam3_tracker" else transformers.Sam2Processor
    )(images)
    given: dict[str, Any] = {}
    if prompt.points:
        given["input_points"] = [[[[x, y] for x, y, _ in prompt.points]]]
        given["input_labels"] = [[[int(positive) for _, _, positive in prompt.points]]]
    if prompt.box is not None:
        given["input_boxes"] = [[list(prompt.box)]]
    inputs = processor(images=image, return_tensors="pt", **given)
    sizes = [inputs.pop("original_sizes")] + ([] if squeezes else [inputs.pop("reshaped_input_sizes")])
    several = fed is None and prompt.box is None and len(prompt.points) == 1
    with torch.inference_mode():
        said = model(
            **inputs,
            input_masks=None if fed is None else torch.from_numpy(fed)[None],
            multimask_output=several,
        )
    best = int(said.iou_scores[0, 0].argmax())
    low = said.pred_masks[:, :, best : best + 1]
    full = processor.post_process_masks(low, *sizes, binarize=False)[0]
    return full[0, 0].numpy(), float(said.iou_scores[0, 0, best]), low[0, 0].numpy()


def test_clicks_refined_by_their_logits_and_boxes_are_those_of_transformers(folder: Path) -> None:
    image = picture(HW)
    ours = from_settings(settings(folder), None)
    embedding = ours.embed(image)
    start: StartMask | None = None
    fed = None
    series = [Prompt(POINTS[:count], None, "x") for count in (1, 2, 3)]
    for prompt in [*series, Prompt((), BOX, "x"), Prompt(POINTS[1:2], BOX, "x")]:
        if prompt.box is not None:
            start = fed = None
        found = ours.segment(embedding, prompt, start)
        full, score, low = bare(folder, image, prompt, fed)
        assert found.logits is not None
        spread = float(np.abs(low).max())
        fed_back = np.clip(low, -32, 32) if ours.family.squeezes else low  # as the authors of SAM 2 do
        np.testing.assert_allclose(found.logits, fed_back, atol=5e-3 * spread + 1e-5)
        assert found.iou[0] == pytest.approx(min(max(score, 0.0), 1.0), abs=5e-3)
        expected = honour_clicks(full, prompt, None if start is None else start.mask)
        assert iou(found.masks[0], expected) > 0.98
        for x, y, positive in prompt.points:
            assert found.masks[0][int(y), int(x)] == positive
        fed = found.logits
        start = start_mask_from(found.masks[0], logits=found.logits[0], from_proposal=False)


def test_all_masks_of_a_first_click_can_be_had(folder: Path) -> None:
    ours = from_settings(settings(folder), None)
    embedding = ours.embed(picture(HW))
    click = Prompt(POINTS[:1], None, "x")
    best, every = ours.segment(embedding, click, None), ours.segment_all(embedding, click)
    assert (len(best.masks), len(every.masks)) == (1, 3)
    np.testing.assert_array_equal(every.masks[0], best.masks[0])
    assert every.iou[0] == best.iou[0]
    assert (np.diff(every.iou) <= 0).all()
    assert every.logits is not None
    assert every.logits.shape[0] == 3
    assert every.masks[:, int(POINTS[0][1]), int(POINTS[0][0])].all()
    assert len(ours.segment_all(embedding, Prompt((), BOX, "x")).masks) == 1


def test_every_input_matters(folder: Path) -> None:
    """A negative click, the box, the mask before and the picture each change the logits."""
    ours = from_settings(settings(folder), None)
    embedding = ours.embed(picture(HW))
    proposal = start_mask_from(np.pad(np.ones((40, 50), bool), ((20, 30), (10, 70))), from_proposal=True)

    def logits(prompt: Prompt, start: StartMask | None = None, at: Any = embedding) -> Any:
        found = ours.segment(at, prompt, start).logits
        assert found is not None
        return found

    one = logits(Prompt(POINTS[:1], None, "x"), proposal)
    before = start_mask_from(proposal.mask, logits=one[0], from_proposal=False)
    two = Prompt(POINTS[:2], None, "x")
    flipped = Prompt((POINTS[0], (*POINTS[1][:2], True)), None, "x")
    with_mask = logits(two, before)
    others = [
        one,
        logits(flipped, before),
        logits(two),
        logits(Prompt(two.points, BOX, "x"), before),
        logits(two, before, ours.embed(picture(HW, 5))),
    ]
    assert all(np.abs(with_mask - other).max() > 1e-4 for other in others)


def test_a_kept_embedding_gives_the_same_masks(folder: Path, tmp_path: Path) -> None:
    ours = from_settings(settings(folder), None)
    image = picture(HW)
    image.flags.writeable = False  # as the cache of decoded pictures gives them
    stores = [EmbeddingStore(tmp_path / "kept", ram_bytes=ram, disk_bytes=10**9) for ram in (0, 10**9)]
    made = stores[0].get_or_make("a", ours.encoder, lambda: image, ours.embed, gate=DeviceGate())
    stores[0].flush()
    found = [
        store.get_or_make("a", ours.encoder, lambda: image, ours.embed, gate=DeviceGate()) for store in stores
    ]
    assert [made.tier, *(one.tier for one in found)] == ["encoded", "disk", "disk"]
    wanted = ours.segment(ours.embed(image), Prompt(POINTS, None, "x"), None)
    for one in (made, *found):
        again = ours.segment(one.embedding, Prompt(POINTS, None, "x"), None)
        np.testing.assert_array_equal(again.masks, wanted.masks)
        assert np.array_equal(again.logits, wanted.logits)
    # The fine levels take half of what they would, and no more than the tier is told.
    assert one.embedding.nbytes == sum(a.nbytes for a in one.embedding.arrays.values())
    assert {name: a.dtype for name, a in one.embedding.arrays.items()} == {
        name: np.dtype(np.float32 if name == "features" else np.float16) for name in one.embedding.arrays
    }


def test_start_from_a_proposal(folder: Path) -> None:
    ours = from_settings(settings(folder), None)
    embedding = ours.embed(picture(HW))
    mask = np.zeros(HW, bool)
    mask[20:60, 30:90] = True
    proposal = start_mask_from(mask, from_proposal=True)
    unchanged = ours.segment(embedding, Prompt((), None, "x"), proposal)
    np.testing.assert_array_equal(unchanged.masks[0], mask)
    with pytest.raises(BadPrompt):
        ours.segment(embedding, Prompt((), None, "x"), None)
    negative = ours.segment(embedding, Prompt(((50.0, 30.0, False),), None, "x"), proposal)
    assert not negative.masks[0][30, 50]


def test_bfloat16_encodes_alike_and_has_a_name_of_its_own(folder: Path) -> None:
    plain = from_settings(settings(folder), None)
    fast = from_settings(settings(folder, hf_precision="bfloat16"), None)
    assert plain.encoder != fast.encoder
    image = picture(HW)
    a, b = plain.embed(image), fast.embed(image)
    for name, features in a.arrays.items():
        wide, near = (np.asarray(x, np.float64) for x in (features, b.arrays[name]))
        assert np.corrcoef(wide.ravel(), near.ravel())[0, 1] > 0.99
        assert not np.array_equal(wide, near)
    assert plain.nbytes > fast.nbytes
    first = fast.segment(b, Prompt(POINTS, None, "x"), None)
    fast._place(fast._copy(fast.model, "cpu"), "cpu")
    again = fast.segment(fast.embed(image), Prompt(POINTS, None, "x"), None)
    np.testing.assert_array_equal(again.masks, first.masks)


def test_many_people_at_once_get_their_own_masks(folder: Path) -> None:
    ours = from_settings(settings(folder), None)
    embeddings = [ours.embed(picture(HW, seed)) for seed in range(4)]
    prompts = [Prompt(((10.0 + 7 * k, 20.0 + 3 * k, True),), None, "x") for k in range(16)]
    wanted = [ours.segment(embeddings[k % 4], prompt, None).masks for k, prompt in enumerate(prompts)]
    foreign: list[int] = []

    def person(k: int) -> None:
        for _ in range(3):
            if not np.array_equal(ours.segment(embeddings[k % 4], prompts[k], None).masks, wanted[k]):
                foreign.append(k)

    people = [threading.Thread(target=person, args=(k,)) for k in range(16)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert foreign == []


@pytest.mark.parametrize("hw", [(96, 128), (150, 70), (7, 5), (300, 300)])
def test_sam_equals_segment_anything_with_the_same_weights(hw: tuple[int, int]) -> None:
    official = small_sam()
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 32, "output_channels": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 256, "window_size": 7, "global_attn_indexes": [1], "num_pos_feats": 32,
        },
        prompt_encoder_config={"hidden_size": 64, "image_size": 256},
        mask_decoder_config={
            "hidden_size": 64, "mlp_dim": 128, "iou_head_hidden_dim": 64,
            "layer_norm_eps": 1e-5,  # torch's own, as in segment-anything
        },
    )  # fmt: skip
    model = transformers.SamModel(config).eval()
    model.load_state_dict(sam_as_hf(official.state_dict()))
    ours = HfSegmenter(model, transformers.SamImageProcessorPil(), FAMILIES["sam"], "0" * 64)
    theirs = SamPredictor(official)
    image = picture(hw)
    theirs.set_image(image)
    embedding = ours.embed(image)
    assert {array.dtype for array in embedding.arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(embedding.arrays["features"], theirs.features.numpy(), atol=2e-5)
    at = np.array([[0.4 * hw[1], 0.6 * hw[0]]])
    masks, scores, low = theirs.predict(at, np.array([1]), multimask_output=True, return_logits=True)
    best = int(scores.argmax())
    prompt = Prompt(((*at[0].tolist(), True),), None, "x")
    found = ours.segment(embedding, prompt, None)
    assert found.logits is not None
    np.testing.assert_allclose(found.logits[0], low[best], atol=1e-4)
    # Pixels may differ only where the logit is zero to within that error.
    assert (found.masks[0] != honour_clicks(masks[best], prompt, None)).mean() < 0.002


def test_out_of_memory_moves_to_the_cpu(sam2: Path) -> None:
    ours = from_settings(settings(sam2), None)
    image = picture(HW)
    wanted = ours.embed(image)
    model, extra, _ = ours._state

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    # A stand-in for a full GPU: the same weights, an encoder that fails as torch fails, a device not the CPU.
    model.vision_encoder.register_forward_pre_hook(exhausted)
    ours._state = (model, extra, "meta")
    ours.fallback = DeviceFallback("hf", "meta")
    torch_to = torch.Tensor.to
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.Tensor, "to", lambda t, *a, **k: t if a[:1] == ("meta",) else torch_to(t, *a, **k)
        )
        found = ours.embed(image)
    assert ours.device == "cpu"
    for name, array in wanted.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


# -- which folder -----------------------------------------------------------------------------------------


def test_the_name_of_an_encoder_changes_with_weights_and_preprocessing(sam2: Path, tmp_path: Path) -> None:
    names = {from_settings(settings(sam2), None).encoder}
    copy = shutil.copytree(sam2, tmp_path / "copy")
    assert from_settings(settings(copy), None).encoder in names
    described = copy / "preprocessor_config.json"
    said = json.loads(described.read_text())
    described.write_text(json.dumps({**said, "image_mean": [0.5, 0.5, 0.5]}))
    names.add(from_settings(settings(copy), None).encoder)
    other = save("sam2", tmp_path / "other", seed=1)
    names.add(from_settings(settings(other), None).encoder)
    assert len(names) == 3


def test_a_folder_without_image_processor_gets_the_one_of_its_kind(sam2: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sam2, tmp_path / "copy", ignore=shutil.ignore_patterns("preprocessor_config.json"))
    a, b = (from_settings(settings(path), None) for path in (sam2, copy))
    np.testing.assert_array_equal(
        a.embed(picture(HW)).arrays["features"], b.embed(picture(HW)).arrays["features"]
    )


def test_names_on_the_hub_are_looked_up_here_and_nowhere_else(
    sam2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    asked = settings("facebook/sam2.1-hiera-tiny", data_dir=tmp_path)
    with pytest.raises(ModelError, match=r"groundswell models pull facebook/sam2\.1-hiera-tiny"):
        find_folder(asked)
    pulled = pulled_folder(tmp_path, "facebook/sam2.1-hiera-tiny")
    shutil.copytree(sam2, pulled)
    assert find_folder(asked) == pulled
    with pytest.raises(ModelError, match="--revision v2"):
        find_folder(settings("facebook/sam2.1-hiera-tiny", data_dir=tmp_path, hf_revision="v2"))


def test_a_wrong_folder_is_named(sam2: Path, tmp_path: Path) -> None:
    detector = tmp_path / "detector"
    detector.mkdir()
    (detector / "config.json").write_text('{"model_type": "rt_detr"}')
    language = tmp_path / "language"
    language.mkdir()
    (language / "config.json").write_text('{"model_type": "llama"}')
    empty = shutil.copytree(sam2, tmp_path / "empty", ignore=shutil.ignore_patterns("*.safetensors"))
    file = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": dict.fromkeys(
        ("image_encoder.trunk.pos_embed_window", "sam_mask_decoder.iou_token.weight", "no_obj_embed_spatial"),
        torch.zeros(1),
    )}, file)  # fmt: skip
    for path, words in (
        (detector, r"detection model \(rt_detr\)"),
        (language, "model of type 'llama'"),
        (empty, "no weights"),
        (tmp_path / "gone", "does not exist"),
        (tmp_path, "holds no model of transformers that takes clicks|is a folder with"),
        (file, "SAM 2.1 checkpoint of facebook's sam2 package.*GROUNDSWELL_HF_MODEL"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            find_folder(settings(path))
        assert caught.value.field == "hf_model"
        assert caught.value.hint
    with pytest.raises(ModelError, match="GROUNDSWELL_HF_MODEL"):
        find_folder(settings(""))


def test_weights_that_do_not_belong_to_the_config_are_refused(sam2: Path, tmp_path: Path) -> None:
    """transformers itself would fill what is missing with random numbers and go on."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(sam2, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.startswith("mask_decoder."))
    save_file({k: v for k, v in weights.items() if k != name}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lack 1 tensors of SAM 2"):
        load_model(copy)
    (copy / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(copy)


def test_a_folder_runs_no_code_of_its_own(sam2: Path, tmp_path: Path) -> None:
    """Neither a pickle among the weights nor a module that config.json names."""
    copy = shutil.copytree(sam2, tmp_path / "copy")
    ran = tmp_path / "ran"
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "Sam2Model": "evil.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"open({str(ran)!r}, 'w')")
    load_model(copy)
    (copy / "model.safetensors").unlink()
    torch.save({"x": _Opens(ran)}, copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(copy)
    assert not ran.exists()


class _Opens:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return open, (str(self._path), "w")


def test_the_list_says_whether_it_is_ready_and_under_which_licence(sam2: Path, tmp_path: Path) -> None:
    def row(chosen: BackendSettings) -> Any:
        return next(row for row in list_segmenters(chosen) if row.name == "hf")

    unset = row(settings(""))
    assert not unset.ready
    assert "GROUNDSWELL_HF_MODEL is not set" in unset.reason
    assert "SAM 3: SAM License" in unset.licence
    ready = row(settings(sam2))
    assert ready.here
    assert ready.licence.startswith("unknown")
    assert "Apache-2.0" in ready.licence
    copy = shutil.copytree(sam2, tmp_path / "copy")
    (copy / "README.md").write_text("---\nlicense: other\nlicense_name: sam-license\n---\n# Card\n")
    assert inspect(settings(copy), None).licence == "sam-license (says the model's card)"
    assert "does not exist" in row(settings(tmp_path / "gone")).reason
