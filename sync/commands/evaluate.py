"""``groundswell evaluate``: how good a part is, measured on data with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ml_backend.clicks.base import ClickSegmenter
    from ml_backend.clicks.benchmark import ClickBenchmark, ClickSplit
    from ml_backend.instances import Rle

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure on data with known truth.", no_args_is_help=True)
    app.add_typer(group, name="evaluate")

    @group.callback()
    def evaluate() -> None:
        """Measure on data with known truth."""

    @group.command()
    def clicks(
        images: Annotated[Path, typer.Option(help="folder of the images")],
        coco: Annotated[Path, typer.Option(help="COCO file with the true masks")],
        segmenter: Annotated[
            list[str], typer.Option(help="segmenter to measure; repeat to compare several on the same masks")
        ],
        report: Annotated[Path, typer.Option(help="JSON file to write")],
        limit: Annotated[int | None, typer.Option(min=1, help="masks to measure, spread over images")] = None,
        start: Annotated[str, typer.Option(help="empty, or proposal (measured beside empty)")] = "empty",
        robot: Annotated[str, typer.Option(help="where users click: ritm or component")] = "ritm",
        train_fraction: Annotated[
            float, typer.Option(min=0.0, max=0.95, help="share of images kept for training, never measured")
        ] = 0.0,
        proposals: Annotated[
            Path | None, typer.Option(help="stored prediction: COCO results of masks")
        ] = None,
        model: Annotated[Path | None, typer.Option(help="folder of a model version that proposes")] = None,
        click_model: Annotated[
            Path | None, typer.Option(help="folder of the click network for project; trained there if empty")
        ] = None,
        iterations: Annotated[int | None, typer.Option(min=1, help="training steps of project")] = None,
        max_clicks: Annotated[int, typer.Option(min=1, help="clicks after which a user gives up")] = 20,
        plot: Annotated[Path | None, typer.Option(help="picture of the IoU curves to write")] = None,
        seed: Annotated[int, typer.Option(help="of split, choice of masks and training")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
    ) -> None:
        """Clicks that simulated users need: NoC@85, NoC@90, failures, IoU after k clicks, with intervals.

        `project` is trained first, on the training share of the images; the rest is measured. With
        `--start proposal` every mask is clicked twice, from nothing and from what `--proposals` or
        `--model` propose.

        Example: groundswell evaluate clicks --images cells/images --coco cells/annotations.json
        --segmenter classical --segmenter project --train-fraction 0.5 --limit 200 --report clicks.json
        """
        import json

        from ml_backend.artifacts import write_json
        from ml_backend.clicks.benchmark import (
            ClickBenchmark,
            pick_targets,
            run_benchmark,
            split_images,
            with_starts,
        )
        from ml_backend.clicks.robots import ROBOTS
        from ml_backend.coco import load_coco
        from ml_backend.errors import BadInput

        if start not in ("empty", "proposal"):
            raise BadInput(f"unknown start {start!r}", field="start", hint="Use empty or proposal")
        if robot not in ROBOTS:
            raise BadInput(f"unknown robot {robot!r}", field="robot", hint=f"Use {' or '.join(ROBOTS)}")
        if start == "proposal" and (proposals is None) == (model is None):
            raise BadInput(
                "a start from proposals needs one source of them",
                field="start",
                hint="Give --proposals or --model",
            )
        if "project" in segmenter and train_fraction == 0.0 and not _trained(click_model):
            raise BadInput(
                "project must be trained on something", field="train_fraction", hint="For example 0.5"
            )
        data = load_coco(images, coco)
        split = split_images(data, train_fraction=train_fraction, seed=seed)
        chosen = ClickBenchmark(robot=robot, limit=limit, max_clicks=max_clicks, seed=seed)  # type: ignore[arg-type]
        chosen = with_starts(chosen, start)  # type: ignore[arg-type]
        found = _proposals(proposals, model, split) if start == "proposal" else {}
        targets = pick_targets(split.test, data.categories, chosen, found)
        reports = []
        for name in segmenter:
            built = _segmenter(name, split, click_model, iterations=iterations, seed=seed, quiet=as_json)
            reports.append(run_benchmark(built, targets, chosen, _quiet if as_json else _say))
        write_json(
            report,
            {
                "images": len(split.test),
                "train_images": len(split.train) if "project" in segmenter else 0,
                "masks": len(targets),
                "reports": reports,
            },
        )
        if plot is not None:
            from sync.click_plots import plot_click_curves

            plot_click_curves(reports, plot, title=f"{coco.parent.name}: {len(targets)} masks, {robot} robot")
        if as_json:
            typer.echo(json.dumps([_without_traces(r) for r in reports], indent=1))
        else:
            _table(reports, chosen)


def _say(line: str) -> None:
    typer.secho(line, err=True, dim=True)


def _quiet(line: str) -> None:
    """Progress is not wanted beside JSON."""


def _trained(folder: Path | None) -> bool:
    return folder is not None and (folder / "click.json").exists()


def _proposals(stored: Path | None, model: Path | None, split: ClickSplit) -> dict[int, list[Rle]]:
    from ml_backend.artifacts import read_json
    from ml_backend.clicks.benchmark import predict_proposals, stored_proposals
    from ml_backend.errors import ModelError
    from ml_backend.learners import get_learner

    if stored is not None:
        return stored_proposals(stored, split.test)
    assert model is not None
    try:
        learner = str(read_json(model / "learner.json")["learner"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no model version in {model}", field="model") from error
    return predict_proposals(get_learner(learner).load(model), split.test)


def _segmenter(
    name: str, split: ClickSplit, folder: Path | None, *, iterations: int | None, seed: int, quiet: bool
) -> ClickSegmenter:
    """Segmenter by name; ``project`` from ``folder``, trained on the training half when nothing is there."""
    from ml_backend.clicks.registry import build_segmenter
    from sync.settings import load_settings

    if name != "project":
        return build_segmenter(name, load_settings())
    import tempfile
    from dataclasses import replace

    from ml_backend.clicks.network import ProjectSegmenter, save_network
    from ml_backend.clicks.network_training import ClickOptions, train_network

    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="click-network-"))
    if not _trained(folder):
        options = ClickOptions(seed=seed)
        if iterations is not None:
            options = replace(options, iterations=iterations, seconds=float("inf"))
        examples = [image.example() for image in split.train]
        network, manifest, _, _ = train_network(
            examples, options, lambda done, line: None if quiet else _say(f"project: {done:.0%} {line}")
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_network(folder, network, manifest)
    return ProjectSegmenter(folder)


def _without_traces(report: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in report.items() if key != "traces"}


def _table(reports: list[dict[str, object]], benchmark: ClickBenchmark) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"clicks of the {benchmark.robot} robot, 95 % intervals over images")
    for column in (
        "segmenter",
        "start",
        "masks",
        "NoC@85",
        "NoC@90",
        "never 85",
        "never 90",
        "IoU@1",
        "ms/click",
    ):
        table.add_column(column, justify="left" if column in ("segmenter", "start") else "right")
    for report in reports:
        for start, scores in report["starts"].items():  # type: ignore[attr-defined]
            noc, nof = scores["noc"], scores["nof"]
            table.add_row(
                str(report["segmenter"]),
                start,
                str(scores["n_targets"]),
                *(f"{v['value']:.2f} [{v['low']:.2f}, {v['high']:.2f}]" for v in (noc["0.85"], noc["0.90"])),
                *(f"{nof[iou]['value']:.1%}" for iou in ("0.85", "0.90")),
                f"{scores['iou_at'][1]['value']:.3f}",
                f"{scores['click_s'] * 1000:.1f}",
            )
    Console(width=140).print(table)
    for report in reports:
        for pair in report.get("proposal_against_empty", {}).get("all", []):  # type: ignore[attr-defined]
            d = pair["difference"]
            typer.echo(
                f"{report['segmenter']}, NoC@{pair['target_iou'] * 100:.0f}: proposal against empty start "
                f"{d['value']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}], "
                f"best of both {pair['oracle']['value']:.2f}"
            )
