"""``groundswell simulate`` and its pool files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bench.pools import make_pool
from ml_backend.errors import BadInput
from sync.commands.simulate import register
from sync.lab.pool_files import KnownPool, read_pool, write_pool


@pytest.fixture(scope="module")
def pool_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pools") / "two.npz"
    known = []
    for seed, (label, n) in enumerate((("cell", 900), ("dust", 200))):
        pool, iou = make_pool(n, seed=seed, dim=8)
        known.append(KnownPool(label, pool, iou.astype(float)))
    write_pool(path, known)
    return path


def run(*arguments: str) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output, result.exception


def test_pool_files_come_back_as_they_were(pool_file: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    known = read_pool(pool_file)
    assert [(entry.label, len(entry.pool)) for entry in known] == [("cell", 900), ("dust", 200)]
    pool, iou = make_pool(200, seed=1, dim=8)
    np.testing.assert_array_equal(known[1].pool.embedding, pool.embedding)
    np.testing.assert_allclose(known[1].iou, iou)
    with np.load(pool_file) as archive:
        assert archive["labels"].tolist() == ["cell", "dust"]
        table = pyarrow.table(
            {
                "embedding": archive["embedding"].tolist(),
                "score": archive["score"],
                "quality": archive["quality"],
                "iou": archive["iou"],
                "label": [archive["labels"][i] for i in archive["label"]],
            }
        )
    parquet.write_table(table, tmp_path / "two.parquet")
    again = read_pool(tmp_path / "two.parquet")
    assert [entry.label for entry in again] == ["cell", "dust"]
    np.testing.assert_allclose(again[0].pool.embedding, known[0].pool.embedding)


def test_pictures_and_objects_may_come_along(tmp_path: Path) -> None:
    pool, iou = make_pool(30, dim=4)
    image, objects = np.arange(30) % 3, np.array([12, 9, 0])
    write_pool(tmp_path / "whole.npz", [KnownPool("cell", pool, iou.astype(float), image, objects)])
    entry = read_pool(tmp_path / "whole.npz")[0]
    assert entry.image is not None
    assert entry.objects is not None
    np.testing.assert_array_equal(entry.image, image)
    np.testing.assert_array_equal(entry.objects, objects)
    odd = entry.take(entry.image == 1)
    np.testing.assert_array_equal(odd.pool.score, pool.score[image == 1])
    np.testing.assert_array_equal(odd.image, np.ones(10))
    with np.load(tmp_path / "whole.npz") as archive:
        columns = dict(archive)
    np.savez(tmp_path / "short.npz", **(columns | {"image": image[:-1]}))
    with pytest.raises(BadInput, match="image"):
        read_pool(tmp_path / "short.npz")
    np.savez(tmp_path / "flat.npz", **(columns | {"objects": objects}))
    with pytest.raises(BadInput, match="objects"):
        read_pool(tmp_path / "flat.npz")


def test_bad_pool_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        read_pool(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(BadInput, match="no NumPy archive"):
        read_pool(tmp_path / "text.npz")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(BadInput, match="Parquet"):
        read_pool(tmp_path / "text.parquet")
    np.savez(tmp_path / "half.npz", embedding=np.zeros((2, 3)), score=np.zeros(2), quality=np.zeros(2))
    with pytest.raises(BadInput, match="no column 'iou'"):
        read_pool(tmp_path / "half.npz")
    columns: dict[str, Any] = {"embedding": np.zeros((2, 3)), "score": np.zeros(2), "quality": np.zeros(2)}
    np.savez(tmp_path / "high.npz", **columns, iou=np.array([0.5, 1.5]))
    with pytest.raises(BadInput, match="within"):
        read_pool(tmp_path / "high.npz")
    np.savez(
        tmp_path / "label.npz", **columns, iou=np.zeros(2), label=np.array([0, 4]), labels=np.array(["a"])
    )
    with pytest.raises(BadInput, match="label"):
        read_pool(tmp_path / "label.npz")
    columns["embedding"] = np.full((2, 3), np.nan)
    np.savez(tmp_path / "nan.npz", **columns, iou=np.zeros(2))
    with pytest.raises(BadInput, match="not finite"):
        read_pool(tmp_path / "nan.npz")


def test_report_and_plot(pool_file: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "report.json", tmp_path / "curves.svg"
    code, output, _ = run(
        *("--pool", str(pool_file), "--policy", "certified", "--policy", "original", "--seeds", "3"),
        *(
            "--noise",
            "0.95,0.9",
            "--option",
            "original.min_size=10",
            "--out",
            str(out),
            "--plot",
            str(plot),
            "--json",
        ),
    )
    assert code == 0, output
    printed = json.loads(output)
    report = json.loads(out.read_text())
    assert report["policies"] == printed["policies"]
    assert report["instances"] == {"cell": 900, "dust": 200}
    ours, theirs = (report["policies"][name] for name in ("certified", "original"))
    assert {"purity": 0.85, "sensitivity": 0.95, "specificity": 0.9}.items() <= ours["options"].items()
    assert ours["options"]["sheet_s"] == 1.5
    assert {"accept": 0.85, "min_size": 10}.items() <= theirs["options"].items()
    assert ours["promise_broken_unseen"]["plays"] == 3
    assert theirs["masks"]["mean"] > 0
    hours = theirs["hours_to_finish"]
    assert hours["low"] < hours["mean"] < hours["high"]
    assert theirs["masks"]["mean"] == pytest.approx(theirs["verified"]["mean"] + theirs["unseen"]["mean"])
    curve = report["curves"]["original"][0]
    assert curve["questions"][-1] > 0
    assert curve["precision"][0] is None
    assert len(curve["questions"]) == len(curve["recall"])
    assert "<svg" in plot.read_text()


def test_several_classes_are_played_as_one_project(pool_file: Path) -> None:
    code, output, _ = run("--pool", str(pool_file), "--policy", "certified", "--seeds", "1", "--json")
    assert code == 0
    played = json.loads(output)["policies"]["certified"]
    assert played["promise_broken"]["plays"] == 1
    assert played["hours_to_finish"]["mean"] > 0


def test_lenient_and_careless_people_are_played(pool_file: Path) -> None:
    arguments = ("--pool", str(pool_file), "--policy", "original", "--seeds", "1", "--json")
    _, exact, _ = run(*arguments)
    code, output, _ = run(*arguments, "--noise", "0.95,0.95", "--lenient", "0.3", "--careless", "0.1")
    assert code == 0
    report = json.loads(output)
    assert report["people"]["near_miss_specificity"] == 0.3
    assert report["people"]["careless"] == 0.1
    precision = [json.loads(text)["policies"]["original"]["precision"]["mean"] for text in (exact, output)]
    assert precision[1] < precision[0]


def test_table_for_people(pool_file: Path) -> None:
    code, output, _ = run("--pool", str(pool_file), "--policy", "random", "--seeds", "2", "--budget", "100")
    assert code == 0
    assert "hours" in output
    assert "random" in output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--policy", "magic"], "magic"),
        (["--policy", "original", "--noise", "0.9"], "0.9"),
        (["--policy", "original", "--noise", "0.5,0.5"], "say nothing"),
        (["--policy", "original", "--option", "flavour=3"], "flavour"),
        (["--policy", "original", "--plot", "curves.txt"], "neither"),
    ],
)
def test_mistakes_are_named(pool_file: Path, arguments: list[str], word: str) -> None:
    code, _, error = run("--pool", str(pool_file), *arguments)
    assert code == 1
    assert isinstance(error, BadInput)
    assert word in str(error)
