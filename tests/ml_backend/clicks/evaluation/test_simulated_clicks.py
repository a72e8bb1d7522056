"""The simulated user, its scores and pairings, with segmenters whose answers are known in advance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from ml_backend.clicks.base import ClickResult, Embedding, Prompt, StartMask
from ml_backend.clicks.evaluation.experiment import compare_reports
from ml_backend.clicks.evaluation.proposal_pairs import pair_proposals, read_proposals
from ml_backend.clicks.evaluation.simulated_clicks import (
    ClickTarget,
    ClickTrace,
    Start,
    binarise,
    compare,
    evaluate_clicks,
    mask_iou,
    score,
    simulate_user,
)
from ml_backend.clicks.start_masks import box_of_mask
from ml_backend.errors import BadInput, ModelError
from ml_backend.instances import Rle

Mask = npt.NDArray[np.bool_]
HW = (40, 60)


def block(x0: int, y0: int, x1: int, y1: int, hw: tuple[int, int] = HW) -> Mask:
    mask = np.zeros(hw, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def rle_of(mask: Mask) -> Rle:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


class Discs:
    """Paints a disc per click over the start mask: in for positive, out for negative. Says what it was
    asked.
    """

    name = "discs"
    encoder = "discs"
    device = "cpu"
    persist = False

    def __init__(self, radius: float) -> None:
        self.radius = radius
        self.asked: list[tuple[Prompt, StartMask | None]] = []

    def embed(self, image: npt.NDArray[np.uint8]) -> Embedding:
        return Embedding(self.encoder, (image.shape[0], image.shape[1]), {})

    def segment(self, embedding: Embedding, prompt: Prompt, start_mask: StartMask | None) -> ClickResult:
        self.asked.append((prompt, start_mask))
        mask = np.zeros(embedding.hw, bool) if start_mask is None else start_mask.mask.copy()
        ys, xs = np.mgrid[: embedding.hw[0], : embedding.hw[1]]
        for x, y, positive in prompt.points:
            mask[(xs - x) ** 2 + (ys - y) ** 2 <= self.radius**2] = positive
        return ClickResult(mask[None], np.ones(1, np.float32), None)


def test_binarise_cuts_probabilities_at_one_half() -> None:
    soft = np.array([[0.0, 0.2, 0.5, 0.51]])
    assert binarise(soft).tolist() == [[False, False, False, True]]
    assert binarise(np.array([[0, 1, 255]], np.uint8)).tolist() == [[False, True, True]]


def test_iou_of_empties() -> None:
    empty = np.zeros(HW, bool)
    assert mask_iou(empty, empty) == 1.0
    assert mask_iou(empty, block(0, 0, 2, 2)) == 0.0
    assert mask_iou(block(0, 0, 4, 2), block(2, 0, 6, 2)) == pytest.approx(1 / 3)
    assert box_of_mask(empty) == (0, 0, 0, 0)
    assert box_of_mask(block(3, 4, 9, 6)) == (3, 4, 9, 6)


def test_user_feeds_the_segmenters_own_mask_back_and_stops_when_satisfied() -> None:
    segmenter = Discs(6)
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    three = Prompt(((10.0, 12.0, True), (30.0, 25.0, True), (50.0, 15.0, True)), None, "")
    target = segmenter.segment(embedding, three, None).masks[0]
    segmenter.asked.clear()
    trace = simulate_user(segmenter, embedding, target, label="car")
    assert trace.ious == pytest.approx((0.0, 1 / 3, 2 / 3, 1.0))
    assert len(trace.ious) == len(trace.clicks) + 1 == len(trace.click_s) + 1
    assert segmenter.asked[0][1] is None
    for k, (prompt, start_mask) in enumerate(segmenter.asked):
        assert len(prompt.points) == k + 1
        assert prompt.label == "car"
        if k:
            assert start_mask is not None
            assert not start_mask.from_proposal
    assert trace.clicks_to(0.9) == len(trace.clicks)


def test_a_user_gives_up() -> None:
    segmenter = Discs(0.5)
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    trace = simulate_user(segmenter, embedding, block(5, 5, 35, 35), max_clicks=5)
    assert len(trace.clicks) == 5
    assert trace.clicks_to(0.85) is None
    scores = score([trace], segmenter="discs", max_clicks=5)
    assert scores.noc["0.90"].value == 5
    assert scores.nof["0.90"].value == 1.0


def test_good_proposal_costs_no_click() -> None:
    segmenter = Discs(4)
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    target = block(10, 10, 30, 30)
    trace = simulate_user(segmenter, embedding, target, proposal=block(10, 10, 30, 29), start="proposal")
    assert trace.ious == (0.95,)
    assert trace.clicks_to(0.9) == 0
    prompt, start_mask = segmenter.asked[0]
    assert prompt.points == ()
    assert start_mask is not None
    assert start_mask.from_proposal
    assert start_mask.box_xyxy == (10, 10, 30, 29)


@pytest.mark.parametrize(
    ("proposal", "ious"), [(None, (1.0,)), (block(0, 0, 5, 5), (0.0, 1.0)), (np.zeros(HW, bool), (1.0,))]
)
def test_empty_target_costs_one_action_at_most(proposal: Mask | None, ious: tuple[float, ...]) -> None:
    segmenter = Discs(4)
    embedding = segmenter.embed(np.zeros((*HW, 3), np.uint8))
    trace = simulate_user(segmenter, embedding, np.zeros(HW, bool), proposal=proposal, start="proposal")
    assert trace.ious == ious
    assert trace.clicks == ()


def trace(image: str, *ious: float, start: Start = "empty") -> ClickTrace:
    return ClickTrace(image, start, start == "proposal", ious, (), (0.01,) * (len(ious) - 1))


def test_scores_by_hand() -> None:
    traces = [trace("a", 0.0, 0.5, 0.86, 0.92), trace("a", 0.0, 0.95), trace("b", 0.0, 0.2, 0.3, 0.4)]
    scores = score(traces, segmenter="x", max_clicks=3, embed_s=[0.2, 0.4])
    assert scores.noc["0.85"].value == pytest.approx((2 + 1 + 3) / 3)
    assert scores.noc["0.90"].value == pytest.approx((3 + 1 + 3) / 3)
    assert scores.nof["0.85"].value == pytest.approx(1 / 3)
    assert [i.value for i in scores.iou_at] == pytest.approx([0, 1.65 / 3, 2.11 / 3, 2.27 / 3])
    assert scores.seconds_per_mask.value == pytest.approx(2.0 * 7 / 3 + 0.4 + 0.07 / 3)
    assert scores.embed_s == pytest.approx(0.3)
    assert (scores.n_targets, scores.n_images) == (3, 2)
    for interval in (*scores.noc.values(), *scores.iou_at):
        assert interval.low <= interval.value <= interval.high
    with pytest.raises(ValueError, match="no traces"):
        score([], segmenter="x")


def test_interval_covers_images_not_masks() -> None:
    # 100 masks on 2 images that disagree: resampling masks would give a narrow interval, images give all of
    # it.
    traces = [trace("easy", 0.0, 0.95)] * 50 + [trace("hard", *([0.0] * 11))] * 50
    noc = score(traces, segmenter="x", max_clicks=10).noc["0.90"]
    assert (noc.low, noc.value, noc.high) == (1.0, 5.5, 10.0)


def test_interval_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        clicks = rng.integers(1, 6, size=60)
        traces = [trace(str(i), *([0.0] * int(c)), 0.95) for i, c in enumerate(clicks)]
        noc = score(traces, segmenter="x", max_clicks=20, draws=400).noc["0.90"]
        hits += noc.low <= 3.0 <= noc.high
    assert 86 <= hits <= 100


def test_paired_comparison() -> None:
    empty = [trace("a", 0, 0.5, 0.95), trace("a", 0, 0.95), trace("b", 0, 0.1, 0.2, 0.95)]
    proposal = [
        trace("a", 0.93, start="proposal"),
        trace("a", 0.1, 0.2, 0.91, start="proposal"),
        trace("b", 0.3, 0.4, 0.5, 0.95, start="proposal"),
    ]
    paired = compare(empty, proposal, max_clicks=3)
    assert (paired.fewer, paired.equal, paired.more) == (1, 1, 1)
    assert paired.difference.value == pytest.approx(-1 / 3)
    assert paired.oracle.value == pytest.approx((0 + 1 + 3) / 3)
    with pytest.raises(ValueError, match="do not pair"):
        compare(empty, proposal[:2])


def test_evaluate_reads_each_image_once() -> None:
    segmenter, reads = Discs(8), []

    def read(path: Path) -> npt.NDArray[np.uint8]:
        reads.append(path.name)
        return np.zeros((*HW, 3), np.uint8)

    one, two = block(10, 10, 22, 22), block(30, 10, 42, 22)
    targets = [
        ClickTarget(Path("a.png"), "x", rle_of(one), rle_of(one)),
        ClickTarget(Path("b.png"), "x", rle_of(one)),
        ClickTarget(Path("a.png"), "x", rle_of(two)),
    ]
    seen: list[tuple[int, int]] = []
    traces, embed_s = evaluate_clicks(
        segmenter,
        targets,
        read,
        starts=("empty", "proposal"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert reads == ["a.png", "b.png"]
    assert len(embed_s) == 2
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [t.image for t in traces["empty"]] == [t.image for t in traces["proposal"]]
    assert [t.had_proposal for t in traces["proposal"]] == [True, False, False]
    assert traces["proposal"][0].clicks_to(0.9) == 0
    assert compare(traces["empty"], traces["proposal"]).fewer == 1


def test_proposals_pair_one_to_one_by_iou() -> None:
    targets = [rle_of(block(0, 0, 10, 10)), rle_of(block(20, 0, 30, 10)), rle_of(block(40, 20, 50, 30))]
    proposals = [
        rle_of(block(20, 0, 29, 10)),  # 0.9 with target 1
        rle_of(block(0, 0, 10, 8)),  # 0.8 with target 0
        rle_of(block(0, 0, 10, 7)),  # 0.7 with target 0, which already has a better one
        rle_of(block(48, 28, 60, 40)),  # hardly touches target 2
    ]
    assert pair_proposals(targets, proposals, min_iou=0.3) == [1, 0, None]
    assert pair_proposals(targets, [], min_iou=0.3) == [None] * 3
    assert pair_proposals([], proposals) == []


@pytest.fixture
def coco_set(tmp_path: Path) -> Path:
    """Four pictures with two bright blocks each, as COCO, and a stored prediction for one block of each."""
    import json

    from PIL import Image

    (tmp_path / "images").mkdir()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for i in range(4):
        picture = np.full((64, 96, 3), 40, np.uint8)
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 96})
        for j, mask in enumerate((block(10, 10, 30, 40, (64, 96)), block(55, 20, 80, 50, (64, 96)))):
            picture[mask] = (200, 180, 90)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 3,
                    "segmentation": rle_of(mask),
                }
            )
            if j == 0:
                shifted = np.roll(mask, 1, axis=1)
                results.append({"image_id": i + 1, "segmentation": rle_of(shifted), "score": 0.9})
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
    categories = [{"id": 3, "name": "block"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def cli(*arguments: str) -> str:
    import typer
    from typer.testing import CliRunner

    from sync.commands.evaluate import register

    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["evaluate", "clicks", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_command_measures_both_starts(coco_set: Path) -> None:
    import json

    report, plot = coco_set / "out" / "report.json", coco_set / "out" / "plot.png"
    said = cli(
        *("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json")),
        *("--segmenter", "classical", "--limit", "5", "--max-clicks", "3", "--start", "proposal"),
        *("--proposals", str(coco_set / "results.json"), "--report", str(report), "--plot", str(plot)),
    )
    assert "classical" in said
    written = json.loads(report.read_text())
    (measured,) = written["reports"]
    assert measured["starts"]["empty"]["n_targets"] == written["masks"] == 5
    assert 1 <= measured["starts"]["proposal"]["n_proposals"] <= 4
    kept = [t for t in measured["traces"]["proposal"] if t["had_proposal"]]
    assert all(t["ious"] == [pytest.approx(19 / 21, abs=1e-3)] and t["clicks"] == [] for t in kept)
    assert measured["proposal_against_empty"]["with_proposal"][1]["more"] == 0
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_command_puts_segmenters_side_by_side(coco_set: Path) -> None:
    import json

    import torch

    from ml_backend.clicks.project_network.click_net import ClickNet, NetworkManifest, save_network

    torch.manual_seed(0)
    network = coco_set / "network"
    network.mkdir()
    save_network(network, ClickNet(8), NetworkManifest(size=48, width=8, first_side=40.0))
    report, plot = coco_set / "report.json", coco_set / "plot.svg"
    said = cli(
        *("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json")),
        *("--segmenter", "classical", "--segmenter", "project", "--click-model", str(network)),
        *("--max-clicks", "3", "--report", str(report), "--plot", str(plot)),
    )
    rows = [line for line in said.splitlines() if " MB" in line]
    assert [line.split()[1] for line in rows] == ["classical", "project"]
    assert "NoC@90, ritm robot, empty start: project against classical" in said
    written = json.loads(report.read_text())
    classical, project = written["reports"]
    first_clicks = [[t["clicks"][0] for t in one["traces"]["empty"]] for one in (classical, project)]
    assert first_clicks[0] == first_clicks[1]  # the same masks, and the same robot
    assert 20e6 < classical["peak_bytes"] < project["peak_bytes"]  # one of them needs torch
    assert {row["n_targets"] for row in written["differences"]} == {8}
    assert b"<svg" in plot.read_bytes()[:1000]


def test_command_keeps_training_images_out(coco_set: Path) -> None:
    import json

    arguments = ("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json"))
    report = coco_set / "report.json"
    printed = cli(
        *arguments, "--segmenter", "classical", "--max-clicks", "1", "--train-fraction", "0.5",
        "--report", str(report), "--json",
    )  # fmt: skip
    assert json.loads(printed)[0]["starts"]["empty"]["n_images"] == 2
    names = {t["image"] for t in json.loads(report.read_text())["reports"][0]["traces"]["empty"]}
    assert len(names) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--start", "middle"), "unknown start"),
        (("--robot", "random"), "unknown robot"),
        (("--start", "proposal", "--proposals", "a.json", "--model", "b"), "needs one source"),
        (("--start", "proposal"), "a model that proposes must be trained on something"),
        (("--segmenter", "project"), "must be trained on something"),
        (("--segmenter", "sam2"), "unknown click segmenter"),
    ],
)
def test_command_says_what_is_wrong(coco_set: Path, arguments: tuple[str, ...], message: str) -> None:
    given = () if "--segmenter" in arguments else ("--segmenter", "classical")
    with pytest.raises(BadInput if "sam2" not in arguments else ModelError, match=message):
        cli(
            *("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json")),
            *("--report", str(coco_set / "r.json"), *given, *arguments),
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("{}", "neither a list"),
        ('[{"image_id": 1}]', r"proposals\[0\]: needs image_id and segmentation"),
        ('[{"image_id": 1, "segmentation": []}]', "a list of polygons or an RLE"),
        ('[{"image_id": 1, "segmentation": [[1, 2, 3, 4]]}]', "three points or more"),
        ('[{"image_id": 1, "segmentation": {"size": [9, 9], "counts": "1"}}]', "the mask is 9×9"),
        ('[{"image_id": 1, "segmentation": {"size": [20, 20], "counts": "1"}}]', "cover 1 pixels"),
    ],
)
def test_stored_predictions_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(BadInput, match=message):
        read_proposals(file, {1: (20, 20)})


def test_stored_predictions_in_every_form(tmp_path: Path) -> None:
    import json

    mask = block(4, 4, 12, 10, (20, 20))
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]]).astype(int))).tolist()
    runs = np.diff([0, *edges, flat.size]).tolist()
    forms: list[object] = [rle_of(mask), {"size": [20, 20], "counts": runs}, [[4, 4, 12, 4, 12, 10, 4, 10]]]
    rows = [{"image_id": 1, "segmentation": form, "score": 0.1 * k} for k, form in enumerate(forms)]
    rows.append({"image_id": 99, "segmentation": rle_of(mask)})
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"annotations": rows}))
    found = read_proposals(file, {1: (20, 20)})
    assert list(found) == [1]
    assert all((coco_mask.decode(rle) == mask).all() for rle in found[1])
    assert len(read_proposals(file, {1: (20, 20)}, min_score=0.15)[1]) == 1


def test_command_compares_segmenters_under_both_robots(coco_set: Path) -> None:
    import json

    report, plot = coco_set / "report.json", coco_set / "plot.png"
    said = cli(
        *("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json")),
        *("--segmenter", "classical", "--segmenter", "classical", "--max-clicks", "2", "--limit", "4"),
        *("--start", "empty", "--start", "proposal", "--proposals", str(coco_set / "results.json")),
        *("--robot", "both", "--report", str(report), "--plot", str(plot)),
    )
    written = json.loads(report.read_text())
    assert [r["settings"]["robot"] for r in written["reports"]] == ["ritm"] * 2 + ["component"] * 2
    keys = [(d["robot"], d["start"], d["target_iou"]) for d in written["differences"]]
    assert len(keys) == len(set(keys)) == 8
    for row in written["differences"]:  # a segmenter against itself
        assert row["difference"] == {"value": 0, "low": 0, "high": 0}
        assert row["equal"] == row["n_targets"] == 4
    assert "NoC@85, ritm robot, empty start: classical against classical +0.00 [+0.00, +0.00]" in said
    assert plot.read_bytes()[:4] == b"\x89PNG"


def test_compared_reports_are_paired_by_mask() -> None:
    def report(name: str, *ious: list[float]) -> dict[str, object]:
        rows = [{"image": str(i), "had_proposal": False, "ious": v, "clicks": []} for i, v in enumerate(ious)]
        return {"segmenter": name, "settings": {"max_clicks": 5}, "traces": {"empty": rows}}

    slow, fast = report("a", [0, 0.5, 0.86], [0, 0.2, 0.3]), report("b", [0, 0.95], [0, 0.1, 0.86])
    first, second = compare_reports(slow, fast)
    assert (first["a"], first["b"], first["start"], first["target_iou"]) == ("a", "b", "empty", 0.85)
    assert first["difference"]["value"] == ((1 - 2) + (2 - 5)) / 2
    assert second["difference"]["value"] == ((1 - 5) + 0) / 2
    assert (first["fewer"], second["fewer"], second["equal"]) == (2, 1, 1)


@pytest.mark.slow
def test_command_trains_what_proposes_once_and_keeps_it(coco_set: Path) -> None:
    import json

    folder = coco_set / "model"
    folder.mkdir()
    arguments = (
        *("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json")),
        *("--segmenter", "classical", "--train-fraction", "0.5", "--start", "proposal"),
        *("--max-clicks", "1", "--model", str(folder), "--model-iterations", "2"),
        *("--report", str(coco_set / "report.json"), "--json"),
    )
    for _ in range(2):  # two iterations propose nothing that overlaps
        with pytest.raises(BadInput, match="none of the masks has a proposal"):
            cli(*arguments)
        kept = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
        assert set(kept) == {"learner.json", "weights.safetensors"}
    assert json.loads((folder / "learner.json").read_text())["learner"] == "maskrcnn"


@pytest.mark.slow
def test_command_trains_project_once_and_keeps_it(coco_set: Path) -> None:
    import json

    folder = coco_set / "network"
    arguments = (
        *("--images", str(coco_set / "images"), "--coco", str(coco_set / "annotations.json")),
        *("--segmenter", "project", "--segmenter", "classical", "--train-fraction", "0.5"),
        *("--max-clicks", "2", "--iterations", "2", "--click-model", str(folder)),
        *("--report", str(coco_set / "report.json")),
    )
    first = json.loads(cli(*arguments, "--json"))
    assert [r["segmenter"] for r in first] == ["project", "classical"]
    assert {p.name for p in folder.iterdir()} == {"click.json", "weights.safetensors"}
    weights = (folder / "weights.safetensors").stat().st_mtime_ns
    again = json.loads(cli(*arguments, "--json"))
    assert (folder / "weights.safetensors").stat().st_mtime_ns == weights
    assert [r["starts"]["empty"]["noc"] for r in again] == [r["starts"]["empty"]["noc"] for r in first]
