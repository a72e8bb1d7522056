"""Orders against each other: played loops whose outcome is known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ml_backend.errors import BadInput
from ml_backend.images.decode import read_image
from ml_backend.instances import Instances
from ml_backend.kinds.classes import CLASSES
from ml_backend.learners.base import Evaluation, Progress, TrainReport, TrainSpec
from ml_backend.learners.registry import LEARNERS
from ml_backend.masks.shapes import whole_rle
from sync.cli import build_app
from sync.lab.al_evaluation import AlEvaluation, evaluate_orders, parse_order
from sync.lab.labelled_pictures import from_csv, sample, split_by_group

NAME = "edge"


class EdgePredictor:
    """Bright pictures are ``b``; the threshold lies between the brightest dark and the darkest bright one."""

    labels, embedding_dim, nbytes = ("a", "b"), 1, 8

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def predict(self, images: Sequence[Any]) -> Iterator[Instances]:
        for image in images:
            p = 1.0 / (1.0 + np.exp(-(float(image.mean()) - self._threshold) / 8.0))
            label = int(p > 0.5)
            sure = max(p, 1 - p)
            yield Instances(
                np.array([label]), np.zeros((1, 4), np.float32), [whole_rle(image.shape[:2])],
                np.array([sure], np.float32), np.ones(1, np.float32), np.ones((1, 1), np.float32),
                doubts={"entropy": 2 * (1 - sure), "margin": 2 * (1 - sure)},
            )  # fmt: skip


class EdgeLearner:
    name = NAME

    def check_options(self, preset: str, options: Mapping[str, Any]) -> None:
        if options:
            raise BadInput("no options", field="options.any")

    def train(self, spec: TrainSpec, out: Path, progress: Progress) -> TrainReport:
        assert spec.exclusive
        bright = {
            c: [float(read_image(e.image).mean()) for e in spec.train if e.tags == (c,)] for c in (0, 1)
        }
        low, high = max(bright[0], default=0.0), min(bright[1], default=255.0)
        threshold = (low + high) / 2
        (out / "t.json").write_text(json.dumps(threshold))
        right = [(float(read_image(e.image).mean()) > threshold) == (e.tags == (1,)) for e in spec.test]
        value = float(np.mean(right))
        metrics = {"accuracy": (value, value, value)}
        return TrainReport(NAME, "nothing", 1, 0.0, Evaluation(len(right), len(right), metrics))

    def load(self, folder: Path, *, device: str = "auto") -> EdgePredictor:
        return EdgePredictor(json.loads((folder / "t.json").read_text()))

    def export(self, folder: Path, out: Path) -> Path:
        raise NotImplementedError


@pytest.fixture
def tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 grey pictures; those brighter than 128 are ``b``."""
    monkeypatch.setitem(LEARNERS, NAME, f"{__name__}:EdgeLearner")
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows, groups = ["file,label"], ["file,group"]
    for i, level in enumerate(rng.integers(0, 256, 120).tolist()):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(tmp_path / "images" / f"{i}.png")
        rows.append(f"images/{i}.png,{'b' if level > 128 else 'a'}")
        groups.append(f"images/{i}.png,{i // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "groups.csv").write_text("\n".join(groups))
    return tmp_path


def test_doubt_beats_random_where_it_must(tiles: Path) -> None:
    """The threshold is found by bisection: asking at the border needs far fewer labels than random ones."""
    data = from_csv(tiles / "images", tiles / "labels.csv", tiles / "groups.csv")
    plan = AlEvaluation(
        orders=("entropy", "ours", "random"),
        start=4,
        batch=2,
        rounds=6,
        seeds=6,
        learner=NAME,
    )
    found = evaluate_orders(data, CLASSES, plan)
    orders = found["orders"]
    assert (found["reference"], found["metric"], found["seeds"]) == ("random", "accuracy", 6)
    for name in ("entropy", "ours"):
        assert orders[name]["difference_by_tasks"]["value"] > 0.01
        last = [orders[n]["curves"] for n in (name, "random")]
        errors = [np.mean([1 - curve[-1]["metric"] for curve in curves]) for curves in last]
        assert errors[0] < errors[1] / 2
    assert "difference_by_tasks" not in orders["random"]
    for order in orders.values():
        for curve in order["curves"]:
            assert [point["labelled"] for point in curve] == [4, 6, 8, 10, 12, 14]
            assert [point["seconds"] for point in curve] == pytest.approx([1.4 * n for n in range(4, 15, 2)])
    starts = {round(order["curves"][0][0]["metric"], 6) for order in orders.values()}
    assert len(starts) == 1, "they start from the same pictures"


def test_the_command_writes_report_and_plot(tiles: Path) -> None:
    report, plot = tiles / "al.json", tiles / "al.png"
    done = CliRunner().invoke(
        build_app(),
        [
            "evaluate", "al", "--images", str(tiles / "images"), "--csv", str(tiles / "labels.csv"),
            "--groups", str(tiles / "groups.csv"), "--learner", NAME, "--start", "4", "--batch", "4",
            "--rounds", "2", "--seeds", "2", "--report", str(report), "--plot", str(plot), "--limit", "60",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "against random" in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    found = json.loads(report.read_text())
    assert list(found["orders"]) == ["ours", "random"]
    assert all(len(order["curves"]) == 2 for order in found["orders"].values())


def test_groups_are_never_split_and_samples_keep_them(tiles: Path) -> None:
    data = from_csv(tiles / "images", tiles / "labels.csv", tiles / "groups.csv")
    pool, test = split_by_group(data, 0.3, seed=1)
    assert sorted(pool + test) == list(range(120))
    assert not {data.group[i] for i in pool} & {data.group[i] for i in test}
    assert 30 <= len(test) <= 42
    assert split_by_group(data, 0.3, seed=2) != (pool, test)
    assert len(sample(data, 50).examples) == 50
    with pytest.raises(BadInput, match="without pictures"):
        split_by_group(sample(data, 1), 0.3, seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("best", "no order 'best'"), ("ours,size=1", "'size=1'"), ("ours,diversity=-1", "diversity")],
)
def test_wrong_orders_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_order(text)


def test_exponents_of_an_order_are_read() -> None:
    method, rule = parse_order("ours,diversity=0,explore=0.2")
    assert (method, rule.diversity, rule.explore) == ("ours", 0.0, 0.2)
    assert parse_order("entropy")[1].diversity == 0.0


@pytest.mark.parametrize(
    ("table", "message"),
    [("file,class\na.png,b\n", "no column .label."), ("file,label\nnone.png,b\n", "no picture none.png"),
     ("file,label\n,b\n", "are needed")],
)  # fmt: skip
def test_bad_tables_are_named(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(BadInput, match=message):
        from_csv(tmp_path, tmp_path / "labels.csv")
