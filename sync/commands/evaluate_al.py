"""``groundswell evaluate al``: orders of tasks against each other, on data with known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["register_al"]


def register_al(group: typer.Typer) -> None:
    @group.command()
    def al(
        images: Annotated[Path, typer.Option(help="folder of the pictures")],
        report: Annotated[Path, typer.Option(help="JSON file to write")],
        coco: Annotated[Path | None, typer.Option(help="COCO file with the true objects")] = None,
        csv: Annotated[
            Path | None, typer.Option(help="CSV file with columns file and label: one class per picture")
        ] = None,
        groups: Annotated[
            Path | None,
            typer.Option(help="CSV file with columns file and group: pictures that belong together"),
        ] = None,
        kind: Annotated[str, typer.Option(help="what is labelled; classes when --csv is given")] = "",
        order: Annotated[
            list[str] | None,
            typer.Option(
                help="order to play, repeat; the last is what the others are compared with (default: ours, "
                "random). Exponents go behind commas: ours,diversity=0,explore=0.1"
            ),
        ] = None,
        start: Annotated[int, typer.Option(min=2, help="pictures labelled before the first training")] = 10,
        batch: Annotated[int, typer.Option(min=1, help="pictures labelled per further round")] = 10,
        rounds: Annotated[int, typer.Option(min=1, help="trainings")] = 5,
        seeds: Annotated[int, typer.Option(min=1, help="repetitions")] = 5,
        test_fraction: Annotated[
            float, typer.Option(min=0.05, max=0.9, help="share of pictures kept for measuring")
        ] = 0.3,
        limit: Annotated[
            int | None, typer.Option(min=10, help="use so many pictures, drawn at random")
        ] = None,
        metric: Annotated[str, typer.Option(help="of the learner; empty: the headline of the kind")] = "",
        learner: Annotated[str, typer.Option(help="empty: the default one of the kind")] = "",
        preset: Annotated[str, typer.Option(help="light or full")] = "light",
        option: Annotated[
            list[str] | None, typer.Option(help="name=value of the learner, repeat (value as in JSON)")
        ] = None,
        typical_start: Annotated[
            bool,
            typer.Option(help="ours starts from typical pictures, the others from random ones"),
        ] = False,
        mirror: Annotated[bool, typer.Option(help="look at each picture mirrored too (doubt tta)")] = False,
        draw_s: Annotated[float | None, typer.Option(min=0, help="seconds to draw or mend an object")] = None,
        features: Annotated[str, typer.Option(help="see the setting of that name")] = "classical",
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
        plot: Annotated[Path | None, typer.Option(help="picture of the curves to write")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the areas as JSON")] = False,
    ) -> None:
        """Metric over labelled pictures and over seconds of work, for several orders and seeds.

        The report holds every curve, the areas under them, and differences paired by seed with 95 %
        intervals.

        Example: groundswell evaluate al --images tiles/images --csv tiles/labels.csv --groups
        tiles/groups.csv --order ours --order random --seeds 5 --report al.json --plot al.png
        """
        import json

        from ml_backend.artifacts.files import write_json
        from ml_backend.errors import BadInput
        from ml_backend.kinds.registry import get_kind
        from sync.console import progress
        from sync.lab.al_evaluation import AlEvaluation, evaluate_orders
        from sync.lab.labelled_pictures import from_coco, from_csv, sample

        if (coco is None) == (csv is None):
            raise BadInput("the truth comes from --coco or from --csv", field="coco", hint="Give one of them")
        of_kind = get_kind(kind or ("classes" if csv is not None else "instances"))
        if coco is not None:
            data = from_coco(images, coco, of_kind)
        else:
            assert csv is not None, "one of the two is given"
            if not of_kind.tagged:
                raise BadInput(f"a CSV file has no {of_kind.wants}", field="csv", hint="Use --coco")
            data = from_csv(images, csv, groups)
        if limit is not None:
            data = sample(data, limit)
        plan = AlEvaluation(
            orders=tuple(dict.fromkeys(order or ("ours", "random"))),
            start=start,
            batch=batch,
            rounds=rounds,
            test_fraction=test_fraction,
            seeds=seeds,
            metric=metric,
            learner=learner,
            preset=preset,
            options=_options(option or []),
            typical_start=typical_start,
            mirror=mirror,
            draw_s=draw_s,
            features=features,
            device=device,
        )
        with progress(quiet=as_json) as report_share:
            found = evaluate_orders(
                data, of_kind, plan, report=report_share, keep=lambda found: write_json(report, found)
            )
        write_json(report, found)
        if plot is not None:
            from sync.report.al_plots import plot_orders

            plot_orders(found, plot)
        if as_json:
            orders = {n: {k: v for k, v in o.items() if k != "curves"} for n, o in found["orders"].items()}
            typer.echo(json.dumps({**found, "orders": orders}, indent=1))
        else:
            typer.echo("\n".join(_lines(found)))


def _options(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs, values read as JSON where they are."""
    import json

    from ml_backend.errors import BadInput

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"{text!r} is not name=value", field="option")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Areas and differences, one line per order."""

    def words(entry: Mapping[str, float], sign: str = "") -> str:
        return f"{entry['value']:{sign}.3f} [{entry['low']:{sign}.3f}, {entry['high']:{sign}.3f}]"

    lines = [f"mean {found['metric']} over the loop, {found['seeds']} seeds, 95 % t intervals"]
    for name, order in found["orders"].items():
        line = f"{name}: {words(order['area_by_tasks'])} by pictures, {words(order['area_by_seconds'])} "
        "by seconds"
        if "difference_by_tasks" in order:
            line += (
                f"; against {found['reference']} {words(order['difference_by_tasks'], '+')} by pictures, "
                f"{words(order['difference_by_seconds'], '+')} by seconds"
            )
        lines.append(line)
    return lines
