"""``groundswell evaluate``: how good a part is, measured on data with known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sync.commands.evaluate_al import register_al

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    app.add_typer(group, name="evaluate")

    @group.callback()
    def evaluate() -> None:
        """Measure on data with known truth."""

    register_al(group)

    @group.command()
    def clicks(
        images: Annotated[Path, typer.Option(help="folder of the images")],
        coco: Annotated[Path, typer.Option(help="COCO file with the true masks")],
        segmenter: Annotated[
            list[str], typer.Option(help="segmenter to measure; repeat to compare several on the same masks")
        ],
        report: Annotated[Path, typer.Option(help="JSON file to write")],
        limit: Annotated[int | None, typer.Option(min=1, help="masks to measure, spread over images")] = None,
        start: Annotated[
            list[str] | None,
            typer.Option(help="start from nothing (empty, default) or also from a proposed mask (proposal)"),
        ] = None,
        robot: Annotated[
            str, typer.Option(help="where simulated users click: ritm, component or both")
        ] = "ritm",
        train_fraction: Annotated[
            float, typer.Option(min=0.0, max=0.95, help="share of images kept for training, never measured")
        ] = 0.0,
        proposals: Annotated[
            Path | None, typer.Option(help="COCO results file with masks to start from")
        ] = None,
        model: Annotated[
            Path | None,
            typer.Option(help="folder of a model version that proposes masks; trained there if empty"),
        ] = None,
        model_iterations: Annotated[
            int | None, typer.Option(min=1, help="training steps of the model that proposes")
        ] = None,
        click_model: Annotated[
            Path | None, typer.Option(help="folder of the click network for project; trained there if empty")
        ] = None,
        iterations: Annotated[
            int | None, typer.Option(min=1, help="training steps of the network project")
        ] = None,
        max_clicks: Annotated[int, typer.Option(min=1, help="clicks after which a user gives up")] = 20,
        plot: Annotated[Path | None, typer.Option(help="picture of the IoU curves to write")] = None,
        seed: Annotated[int, typer.Option(help="of split, choice of masks and training")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
    ) -> None:
        """Clicks that simulated users need: NoC@85, NoC@90, failures, IoU after k clicks, with intervals.

        Several segmenters are measured side by side, on the same masks with the same robot, each in a process
        of its own: seconds of a click and of a picture's first one, and the most memory it took.

        `project` is trained first, on the training share of the images; the rest is measured. With
        `--start proposal` every mask is clicked twice, from nothing and from what `--proposals` or
        `--model` propose; without either, a Mask R-CNN is trained on the training share for it. Several
        segmenters are compared on the same masks, with paired differences from the first.

        Example: groundswell evaluate clicks --images cells/images --coco cells/annotations.json
        --segmenter classical --segmenter project --train-fraction 0.5 --limit 150
        --start empty --start proposal --robot both --report clicks.json --plot clicks.png
        """
        import json

        from ml_backend.artifacts.files import write_json
        from ml_backend.clicks.evaluation.robots import ROBOTS
        from ml_backend.masks.coco import load_coco
        from sync.console import progress
        from sync.lab.click_evaluation import ClickEvaluation, evaluate_clicks
        from sync.settings import load_settings

        plan = ClickEvaluation(
            segmenters=segmenter,
            starts=start or ["empty"],
            robots=tuple(ROBOTS) if robot == "both" else (robot,),
            limit=limit,
            max_clicks=max_clicks,
            train_fraction=train_fraction,
            proposals=proposals,
            model=model,
            click_model=click_model,
            model_iterations=model_iterations,
            iterations=iterations,
            seed=seed,
        )
        plan.check()
        data = load_coco(images, coco)
        with progress(quiet=as_json) as report_share:
            scores = evaluate_clicks(data, plan, load_settings(), report=report_share)
        write_json(
            report,
            {
                "images": scores.images,
                "train_images": scores.train_images,
                "masks": scores.masks,
                "reports": scores.reports,
                "differences": scores.differences,
            },
        )
        if plot is not None:
            from sync.report.click_plots import plot_click_curves

            plot_click_curves(scores.reports, plot, title=f"{coco.parent.name}: {scores.masks} masks")
        if as_json:
            typer.echo(json.dumps([_without_traces(r) for r in scores.reports], indent=1))
        else:
            _table(scores.reports, scores.differences)


def _without_traces(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report without the single clicks, which are many."""
    return {key: value for key, value in report.items() if key != "traces"}


def _table(reports: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="clicks of simulated users, 95 % intervals over images")
    columns = ("segmenter", "start", "robot", "masks", "NoC@85", "NoC@90", "never 85", "never 90", "IoU@1")
    for column in (*columns, "ms/click", "ms/picture", "memory"):
        left = column in ("segmenter", "start", "robot")
        table.add_column(column, justify="left" if left else "right")
    for report in reports:
        for start, scores in report["starts"].items():
            noc, nof = scores["noc"], scores["nof"]
            table.add_row(
                report["segmenter"],
                start,
                report["settings"]["robot"],
                str(scores["n_targets"]),
                *(f"{v['value']:.2f} [{v['low']:.2f}, {v['high']:.2f}]" for v in (noc["0.85"], noc["0.90"])),
                *(f"{nof[iou]['value']:.1%}" for iou in ("0.85", "0.90")),
                f"{scores['iou_at'][1]['value']:.3f}",
                f"{scores['click_s'] * 1000:.1f}",
                f"{scores['embed_s'] * 1000:.0f}",
                _megabytes(report.get("peak_bytes")),
            )
    Console(width=156).print(table)
    for row in differences:
        typer.echo(
            f"{_noc(row)}, {row['robot']} robot, {row['start']} start: "
            f"{row['b']} against {row['a']} {_interval(row)}"
        )
    for report in reports:
        for pair in report.get("proposal_against_empty", {}).get("all", []):
            typer.echo(
                f"{_noc(pair)}, {report['settings']['robot']} robot, {report['segmenter']}: proposal against "
                f"empty start {_interval(pair)}, best of both {pair['oracle']['value']:.2f}"
            )


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"


def _noc(pair: Mapping[str, Any]) -> str:
    return f"NoC@{pair['target_iou'] * 100:.0f}"


def _interval(pair: Mapping[str, Any]) -> str:
    d = pair["difference"]
    return f"{d['value']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
