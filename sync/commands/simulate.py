"""``groundswell simulate``: try search policies on a stored pool with known truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clustering.evidence.answer_noise import Noise

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def simulate(
        pool: Annotated[Path, typer.Option(help="pool with known truth: .npz or .parquet")],
        policy: Annotated[
            list[str],
            typer.Option(
                help="auto, certified, original, breadth-first, depth-first, random, universal-cut or lsun; "
                "repeat to compare several"
            ),
        ],
        seeds: Annotated[int, typer.Option(min=1, help="simulated runs per policy")] = 10,
        noise: Annotated[
            str | None, typer.Option(help="how the worker errs: P(yes|good),P(no|bad), for example 0.95,0.9")
        ] = None,
        options: Annotated[
            list[str] | None, typer.Option("--option", help="policy option, [policy.]name=value; repeatable")
        ] = None,
        purity: Annotated[float, typer.Option(min=0.5, max=0.999, help="promised purity")] = 0.85,
        budget: Annotated[int | None, typer.Option(min=1, help="most questions per class")] = None,
        batch: Annotated[int, typer.Option(min=1, help="questions between two steps of the policy")] = 60,
        question_s: Annotated[float, typer.Option(min=0.0, help="seconds per single question")] = 1.4,
        sheet_s: Annotated[float, typer.Option(min=0.0, help="seconds per contact sheet")] = 1.0,
        sheet_mask_s: Annotated[float, typer.Option(min=0.0, help="seconds per mask on a sheet")] = 0.25,
        drawn_mask_s: Annotated[float, typer.Option(min=0.0, help="seconds per mask drawn by hand")] = 80.0,
        out: Annotated[Path | None, typer.Option(help="report to write, JSON")] = None,
        plot: Annotated[
            Path | None, typer.Option(help="picture of the curves to write, .png or .svg")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
    ) -> None:
        """Masks, precision, SQ and recall against questions and human hours, over many seeds.

        The truth of the pool answers the questions. `certified` promises --purity and allows for the errors
        of --noise; the other policies accept clusters at that purity.

        Example: groundswell simulate --pool cells.npz --policy certified --policy original --seeds 20
        --noise 0.95,0.9 --out report.json --plot curves.svg
        """
        import json

        from clustering.simulation import Costs
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
            noise=_parse_noise(noise),
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
            "noise": None if plan.noise is None else [plan.noise.sensitivity, plan.noise.specificity],
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


def _parse_noise(text: str | None) -> Noise | None:
    from clustering.evidence.answer_noise import Noise
    from ml_backend.errors import BadInput

    if text is None:
        return None
    try:
        sensitivity, specificity = (float(part) for part in text.split(","))
        return Noise(sensitivity=sensitivity, specificity=specificity)
    except ValueError as error:
        hint = "two numbers, P(yes|good),P(no|bad), such as 0.95,0.9"
        raise BadInput(f"{text!r} cannot be used: {error}", field="noise", hint=hint) from error


def _print_table(summaries: Mapping[str, Mapping[str, Any]], purity: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Means over seeds. Broken: plays of a class below the promised purity {purity}")
    columns = {
        "questions": "asked",
        "hours": "hours",
        "masks": "masks",
        "masks_per_question": "per question",
        "precision": "precision",
        "sq": "SQ",
        "recall": "recall",
    }
    table.add_column("policy", no_wrap=True)
    for heading in (*columns.values(), "broken"):
        table.add_column(heading, justify="right")
    for name, summary in summaries.items():
        cells = []
        for column in columns:
            mean = summary[column]["mean"]
            cells.append("–" if mean is None else f"{mean:,.0f}" if mean >= 100 else f"{mean:.3f}")
        broken = summary["promise_broken"]
        table.add_row(name, *cells, f"{broken['count']} of {broken['plays']}")
    Console().print(table)
