"""The benchmark of constants: it changes them and puts them back, goes on where it stopped, is not lucky."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import click_sensitivity as bench
from ml_backend.clicks.segmenters import classical, edge_path
from ml_backend.masks.rle import encode_mask, rle_box


def make_set(folder: Path, count: int) -> None:
    """Pictures of one disc each, as a COCO set."""
    (folder / "images").mkdir(parents=True)
    rows, columns = np.ogrid[:60, :80]
    images, annotations = [], []
    for number in range(count):
        disc = (rows - 30) ** 2 + (columns - 30 - 2 * number) ** 2 <= 12**2
        pixels = np.where(disc[..., None], (200, 60, 50), (60, 110, 70)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 60, "width": 80})
        rle = encode_mask(disc)
        x0, y0, x1, y1 = (float(v) for v in rle_box(rle))
        annotations.append(
            {
                "id": number, "image_id": number, "category_id": 1, "segmentation": rle, "iscrowd": 0,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(disc.sum()),
            }
        )  # fmt: skip
    categories = [{"id": 1, "name": "disc"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))


def test_every_constant_is_one_of_its_module_and_comes_back() -> None:
    before = {name: getattr(module, name) for name, module in bench.CONSTANTS.items()}
    with bench.changed(dict.fromkeys(before, 2.0)):
        for name, module in bench.CONSTANTS.items():
            assert getattr(module, name) == 2 * before[name]
            assert type(getattr(module, name)) is type(before[name])
    with bench.changed({"_SPAN": 0.01}):
        assert edge_path._SPAN == 1
    assert {name: getattr(module, name) for name, module in bench.CONSTANTS.items()} == before
    # what is not in the table is known not to matter to users who start from nothing
    numbers = {
        name for name, value in vars(classical).items() if name.isupper() and type(value) in (int, float)
    }
    assert numbers - bench.CONSTANTS.keys() == {"_SAME_OBJECT"}


def test_measure_goes_on_where_it_stopped_and_the_table_says_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "discs", 8)
    monkeypatch.setattr(bench, "CHOOSE", {"discs": 4})
    monkeypatch.setattr(bench, "HELD_BACK", ("discs",))
    monkeypatch.setattr(bench, "CONSTANTS", {"_FIRST_REACH": classical})
    monkeypatch.setattr(bench, "FACTORS", (0.1, 1.4))
    kept = tmp_path / "kept.jsonl"

    def run(step: str, *words: str) -> str:
        monkeypatch.setattr("sys.argv", ["bench", step, *words, "--kept", str(kept)])
        bench.main()
        return capsys.readouterr().out

    run("measure", str(tmp_path))
    rows = kept.read_text().splitlines()
    assert len(rows) == 3
    assert json.loads(rows[0])["clicks"] == [1] * 4
    kept.write_text("\n".join([*rows[:2], rows[2][:20]]))  # killed while it wrote
    clicked: list[dict[str, float]] = []
    there = bench.clicks_of
    monkeypatch.setattr(
        bench, "clicks_of", lambda targets, change: clicked.append(dict(change)) or there(targets, change)
    )
    run("measure", str(tmp_path))
    run("measure", str(tmp_path))
    assert clicked == [{"_FIRST_REACH": 1.4}]
    assert "| `_FIRST_REACH` | 0.6 | **+" in run("table")  # no outline reaches the edge of a disc any more
    assert json.loads(run("check", str(tmp_path)).splitlines()[0]) == {"change": {}}
    lines = run("check", str(tmp_path), "--change", "_FIRST_REACH=0.1", "--limit", "3").splitlines()
    found = json.loads(lines[1])
    assert (found["objects"], found["fewer, more"]) == (3, [0, 3])
    assert found["clicks"][0] == 1


def test_what_one_picture_says_is_no_clear_gain() -> None:
    pictures = [[str(n) for n in range(30)]]
    assert bench.clear_gain(pictures, [np.full(30, -1.0)])
    assert not bench.clear_gain(pictures, [np.r_[-18.0, np.zeros(29)]])
    assert not bench.clear_gain(pictures, [np.zeros(30)])
    assert not bench.clear_gain([["one"] * 30], [np.r_[-9.0, 9.0, np.zeros(28)]])
    value, low, high = bench.paired([["a", "b"], ["c"] * 4], [np.array([0.0, 2.0]), np.full(4, -1.0)])
    assert value == pytest.approx(0.0)  # each set counts alike
    assert low == pytest.approx(-0.5)
    assert high == pytest.approx(0.5)
