"""``groundswell simulate``: try search policies on a stored pool with known truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustering.costs import DRAWN_MASK_S, QUESTION_S, SHEET_MASK_S, SHEET_S

if TYPE_CHECKING:
    from clustering.simulation import People

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def simulate(
        pool: Annotated[Path, typer.Option(help="pool with known truth: .npz or .parquet")],
        policy: Annotated[
            list[str],
            typer.Option(
                help="certified, original, platt, verify-all, pac-labels, breadth-first, depth-first, "
                "random, universal-cut or lsun; repeat to compare several"
            ),
        ],
        seeds: Annotated[int, typer.Option(min=1, help="simulated runs per policy")] = 10,
        noise: Annotated[
            str | None, typer.Option(help="how people err: P(yes|good),P(no|bad), for example 0.95,0.9")
        ] = None,
        lenient: Annotated[
            float | None,
            typer.Option(min=0.0, max=1.0, help="P(no|bad) for bad masks of true IoU 0.65 or more"),
        ] = None,
        careless: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="share of answers that are tossed up")
        ] = 0.0,
        options: Annotated[
            list[str] | None, typer.Option("--option", help="policy option, [policy.]name=value; repeatable")
        ] = None,
        purity: Annotated[float, typer.Option(min=0.5, max=0.999, help="promised purity")] = 0.85,
        budget: Annotated[int | None, typer.Option(min=1, help="most questions")] = None,
        batch: Annotated[
            int | None,
            typer.Option(
                min=1, help="questions between two steps of the policy (60, or a fiftieth of large pools)"
            ),
        ] = None,
        question_s: Annotated[float, typer.Option(min=0.0, help="seconds per single question")] = QUESTION_S,
        sheet_s: Annotated[float, typer.Option(min=0.0, help="seconds per contact sheet")] = SHEET_S,
        sheet_mask_s: Annotated[
            float, typer.Option(min=0.0, help="seconds per mask on a sheet")
        ] = SHEET_MASK_S,
        drawn_mask_s: Annotated[
            float, typer.Option(min=0.0, help="seconds per mask drawn by hand")
        ] = DRAWN_MASK_S,
        out: Annotated[Path | None, typer.Option(help="report to write, JSON")] = None,
        plot: Annotated[
            Path | None, typer.Option(help="picture of the curves to write, .png or .svg")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
    ) -> None:
        """Human hours to a finished set, masks, precision and recall of search policies, over many seeds.

        The truth of the pool answers the questions; all its classes are played as one project. `certified`
        promises --purity and allows for the errors of --noise, but not for --lenient or --careless. The other
        policies accept at that purity. Hours count the answers and the drawing of every good mask that was
        not delivered. Intervals are 95 % intervals over plays.

        Words: a pool is what a model found, here with the truth beside it. The purity of masks is the share
        of good ones among them. Unseen masks were accepted though nobody looked at them. SQ in the report is
        the mean true overlap (IoU) of the masks that were delivered. docs/glossary.md has all words.

        Example: groundswell simulate --pool cells.npz --policy certified --policy original --seeds 20
        --noise 0.95,0.9 --out report.json --plot curves.svg
        """
        import json
        from dataclasses import asdict

        from clustering.costs import Costs
        from ml_backend.artifacts.files import write_json
        from ml_backend.errors import BadInput
        from ml_backend.extras import require_extra
        from sync.console import parse_options, progress
        from sync.lab.policy_plays import PlayPlan, curve_json, play_policies, policy_options
        from sync.lab.pool_files import read_pool
        from sync.report.simulate_plots import plot_curves

        require_extra("cluster", *(["plots"] if plot is not None else []))
        if plot is not None and plot.suffix not in (".png", ".svg"):
            raise BadInput(f"{plot} is neither .png nor .svg", field="plot", hint="Change its ending")
        plan = PlayPlan(
            purity=purity,
            people=_parse_people(noise, lenient, careless),
            seeds=seeds,
            budget=budget,
            batch=batch,
            costs=Costs(question=question_s, sheet=sheet_s, sheet_mask=sheet_mask_s, drawn_mask=drawn_mask_s),
        )
        given = parse_options(options or [])
        policies = {name: policy_options(name, given, plan) for name in policy}
        known = read_pool(pool)
        with progress(quiet=as_json) as report_share:
            played = play_policies(known, policies, plan, report=report_share)
        report = {
            "pool": str(pool),
            "instances": {entry.label: len(entry.pool) for entry in known},
            "purity": purity,
            "people": None if plan.people is None else asdict(plan.people),
            "seeds": seeds,
            "policies": {name: {"options": one.options, **one.summary} for name, one in played.items()},
        }
        if out is not None:
            curves = {name: [curve_json(curve) for curve in one.curves] for name, one in played.items()}
            write_json(out, {**report, "curves": curves})
        if plot is not None:
            title = f"{pool.name}: {seeds} plays per policy"
            plot_curves({name: one.curves for name, one in played.items()}, plot, promise=purity, title=title)
        if as_json:
            typer.echo(json.dumps(report))
        else:
            _print_table({name: one.summary for name, one in played.items()}, purity)


def _parse_people(noise: str | None, lenient: float | None, careless: float) -> People | None:
    from clustering.simulation import People
    from ml_backend.errors import BadInput

    if noise is None and lenient is None and not careless:
        return None
    try:
        sensitivity, specificity = (float(part) for part in (noise or "1,1").split(","))
        return People(
            sensitivity=sensitivity,
            specificity=specificity,
            near_miss_specificity=lenient,
            careless=careless,
        )
    except ValueError as error:
        hint = "two numbers, P(yes|good),P(no|bad), such as 0.95,0.9"
        raise BadInput(f"{noise!r} cannot be used: {error}", field="noise", hint=hint) from error


def _print_table(summaries: Mapping[str, Mapping[str, Any]], purity: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Means over plays, of hours with a 95 % interval. Broken: plays in which, at some step, the "
        f"delivered masks that nobody saw (all delivered masks) were less pure than {purity}",
        box=None,
        padding=(0, 1),
        pad_edge=False,
    )
    columns = {
        "hours_to_finish": "hours",
        "questions": "asked",
        "masks": "masks",
        "unseen": "unseen",
        "recall": "recall",
        "precision": "pure",
        "unseen_precision": "of unseen",
    }
    table.add_column("policy", no_wrap=True)
    for heading in (*columns.values(), "broken"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, summary in summaries.items():
        cells = [_cell(summary[column]["mean"]) for column in columns]
        hours = summary["hours_to_finish"]
        if hours["high"] is not None:
            cells[0] += f" ±{_cell(hours['high'] - hours['mean'])}"
        unseen, every = summary["promise_broken_unseen"], summary["promise_broken"]
        table.add_row(name, *cells, f"{unseen['count']} ({every['count']})/{every['plays']}")
    Console().print(table)


def _cell(number: float | None) -> str:
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"
