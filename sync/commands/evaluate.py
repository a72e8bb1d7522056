"""``groundswell evaluate``: how good a part is, measured on data with known truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ml_backend.clicks.base import ClickSegmenter
    from ml_backend.clicks.evaluation.experiment import ClickSplit
    from ml_backend.instances import Rle

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
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
        start: Annotated[
            list[str] | None, typer.Option(help="empty (default), or proposal (measured beside empty)")
        ] = None,
        robot: Annotated[str, typer.Option(help="where users click: ritm, component or both")] = "ritm",
        train_fraction: Annotated[
            float, typer.Option(min=0.0, max=0.95, help="share of images kept for training, never measured")
        ] = 0.0,
        proposals: Annotated[
            Path | None, typer.Option(help="stored prediction: COCO results of masks")
        ] = None,
        model: Annotated[
            Path | None,
            typer.Option(help="folder of a model version that proposes; trained there if not there"),
        ] = None,
        model_iterations: Annotated[
            int | None, typer.Option(min=1, help="training steps of the model that proposes")
        ] = None,
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
        `--model` propose; without either, a Mask R-CNN is trained on the training share for it. Several
        segmenters are compared on the same masks, with paired differences from the first.

        Example: groundswell evaluate clicks --images cells/images --coco cells/annotations.json
        --segmenter classical --segmenter project --train-fraction 0.5 --limit 150
        --start empty --start proposal --robot both --report clicks.json --plot clicks.png
        """
        import json

        from ml_backend.artifacts.files import write_json
        from ml_backend.clicks.evaluation.experiment import (
            ClickBenchmark,
            compare_reports,
            pick_targets,
            run_benchmark,
            split_images,
            with_starts,
        )
        from ml_backend.clicks.evaluation.robots import ROBOTS
        from ml_backend.errors import BadInput
        from ml_backend.masks.coco import load_coco

        starts = start or ["empty"]
        for asked in starts:
            if asked not in ("empty", "proposal"):
                raise BadInput(f"unknown start {asked!r}", field="start", hint="Use empty or proposal")
        robots = tuple(ROBOTS) if robot == "both" else (robot,)
        if not set(robots) <= set(ROBOTS):
            raise BadInput(f"unknown robot {robot!r}", field="robot", hint=f"Use {', '.join(ROBOTS)} or both")
        if "proposal" in starts and proposals is not None and model is not None:
            raise BadInput(
                "a start from proposals needs one source of them",
                field="start",
                hint="Give --proposals or --model, not both",
            )
        if "project" in segmenter and train_fraction == 0.0 and not _trained(click_model):
            raise BadInput(
                "project must be trained on something", field="train_fraction", hint="For example 0.5"
            )
        say = _quiet if as_json else _say
        data = load_coco(images, coco)
        split = split_images(data, train_fraction=train_fraction, seed=seed)
        chosen = with_starts(ClickBenchmark(limit=limit, max_clicks=max_clicks, seed=seed), starts)  # type: ignore[arg-type]
        found = {}
        if "proposal" in starts:
            found = _proposals(proposals, model, split, data.categories, model_iterations, seed, say)
        targets = pick_targets(split.test, data.categories, chosen, found)
        reports, differences = [], []
        built = [_segmenter(name, split, click_model, iterations, seed, say) for name in segmenter]
        for name in robots:
            runs = [run_benchmark(s, targets, replace(chosen, robot=name), say) for s in built]  # type: ignore[arg-type]
            for other in runs[1:]:
                differences += [{"robot": name, **row} for row in compare_reports(runs[0], other)]
            reports += runs
        write_json(
            report,
            {
                "images": len(split.test),
                "train_images": len(split.train),
                "masks": len(targets),
                "reports": reports,
                "differences": differences,
            },
        )
        if plot is not None:
            from sync.report.click_plots import plot_click_curves

            plot_click_curves(reports, plot, title=f"{coco.parent.name}: {len(targets)} masks")
        if as_json:
            typer.echo(json.dumps([_without_traces(r) for r in reports], indent=1))
        else:
            _table(reports, differences)


def _say(line: str) -> None:
    typer.secho(line, err=True, dim=True)


def _quiet(line: str) -> None:
    """Progress is not wanted beside JSON."""


def _trained(folder: Path | None) -> bool:
    return folder is not None and (folder / "click.json").exists()


def _proposals(
    stored: Path | None,
    model: Path | None,
    split: ClickSplit,
    labels: Sequence[str],
    iterations: int | None,
    seed: int,
    say: Callable[[str], None],
) -> dict[int, list[Rle]]:
    """Stored ones, or those of the model in ``model``, trained on the training half when it is not there."""
    import tempfile

    from ml_backend.clicks.evaluation.experiment import stored_proposals
    from ml_backend.clicks.evaluation.proposal_model import propose

    if stored is not None:
        return stored_proposals(stored, split.test)
    with tempfile.TemporaryDirectory(prefix="click-proposer-") as scratch:
        found = propose(
            split,
            labels,
            model or Path(scratch) / "model",
            lambda share, line: say(f"proposals: {share:.0%} {line}"),
            options=None if iterations is None else {"iterations": iterations},
            seed=seed,
        )
    say(f"proposals: {sum(map(len, found.values()))} on {len(found)} images")
    return found


def _segmenter(
    name: str,
    split: ClickSplit,
    folder: Path | None,
    iterations: int | None,
    seed: int,
    say: Callable[[str], None],
) -> ClickSegmenter:
    """Segmenter by name; ``project`` from ``folder``, trained on the training half when nothing is there."""
    from ml_backend.clicks.serving.catalog import build_segmenter
    from sync.settings import load_settings

    if name != "project":
        return build_segmenter(name, load_settings())
    import tempfile

    from ml_backend.clicks.project_network.click_net import ProjectSegmenter, save_network
    from ml_backend.clicks.training.options import ClickOptions
    from ml_backend.clicks.training.trainer import train_network

    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="click-network-"))
    if not _trained(folder):
        options = ClickOptions(seed=seed)
        if iterations is not None:
            options = replace(options, iterations=iterations, seconds=float("inf"))
        examples = [image.example() for image in split.train]
        network, manifest, _, _ = train_network(
            examples, options, lambda done, line: say(f"project: {done:.0%} {line}")
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_network(folder, network, manifest)
    return ProjectSegmenter(folder)


def _without_traces(report: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in report.items() if key != "traces"}


def _table(reports: list[dict[str, Any]], differences: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="clicks of simulated users, 95 % intervals over images")
    columns = ("segmenter", "start", "robot", "masks", "NoC@85", "NoC@90", "never 85", "never 90", "IoU@1")
    for column in (*columns, "ms/click"):
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
            )
    Console(width=140).print(table)
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


def _noc(pair: Mapping[str, Any]) -> str:
    return f"NoC@{pair['target_iou'] * 100:.0f}"


def _interval(pair: Mapping[str, Any]) -> str:
    d = pair["difference"]
    return f"{d['value']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
