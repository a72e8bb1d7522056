"""``groundswell simulate``: play search policies on a stored pool with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clustering.evidence.answer_noise import Noise
    from clustering.simulation import Costs, Curve, Run
    from clustering.trees.tree import ClusterTree
    from sync.lab.pool_files import KnownPool

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
        seeds: Annotated[int, typer.Option(min=1, help="plays per policy")] = 10,
        noise: Annotated[
            str | None, typer.Option(help="how the worker errs: P(yes|good),P(no|bad), for example 0.95,0.9")
        ] = None,
        options: Annotated[
            list[str] | None, typer.Option("--option", help="policy option, [policy.]name=value; repeatable")
        ] = None,
        purity: Annotated[float, typer.Option(min=0.5, max=0.999, help="promised purity")] = 0.85,
        budget: Annotated[int | None, typer.Option(min=1, help="most questions per class")] = None,
        batch: Annotated[int, typer.Option(min=1, help="questions per look")] = 60,
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

        The truth of the pool answers the questions. `certified` is told the purity to promise and how the
        worker errs; the other policies accept from the same purity on.

        Example: groundswell simulate --pool cells.npz --policy certified --policy original --seeds 20
        --noise 0.95,0.9 --out report.json --plot curves.svg
        """
        import json

        from clustering.simulation import Costs
        from ml_backend.artifacts.files import write_json
        from ml_backend.errors import BadInput
        from sync.lab.pool_files import read_pool
        from sync.report.simulate_plots import plot_curves

        if plot is not None and plot.suffix not in (".png", ".svg"):
            raise BadInput(f"{plot} is neither .png nor .svg", field="plot")
        worker = _parse_noise(noise)
        costs = Costs(question=question_s, sheet=sheet_s, sheet_mask=sheet_mask_s, drawn_mask=drawn_mask_s)
        known = read_pool(pool)
        if not known:
            raise BadInput(f"{pool} holds no instance", field="pool")
        built = {name: _policy_options(name, options or [], purity, worker) for name in policy}
        trees = _grow(known)
        summaries, curves = {}, {}
        for name, chosen in built.items():
            plays = [
                _play_all(name, chosen, known, trees, seed, worker, budget, batch, costs)
                for seed in range(seeds)
            ]
            curves[name] = [curve for curve, _ in plays]
            summaries[name] = {
                "options": chosen,
                **_summary(curves[name], [runs for _, runs in plays], purity, costs),
            }
        report = {
            "pool": str(pool),
            "instances": {entry.label: len(entry.pool) for entry in known},
            "purity": purity,
            "noise": None if worker is None else [worker.sensitivity, worker.specificity],
            "seeds": seeds,
            "policies": summaries,
        }
        if out is not None:
            table = {name: [_curve_json(curve) for curve in runs] for name, runs in curves.items()}
            write_json(out, {**report, "curves": table})
        if plot is not None:
            plot_curves(curves, plot, promise=purity, title=f"{pool.name}: {seeds} plays per policy")
        if as_json:
            typer.echo(json.dumps(report))
        else:
            _print_table(summaries, purity)


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


def _policy_options(name: str, lines: list[str], purity: float, noise: Noise | None) -> dict[str, Any]:
    """Options of one policy: the promise and the noise, overruled by what is given for it or for all."""
    from clustering.search import make_policy
    from ml_backend.errors import BadInput
    from sync.console import parse_options

    chosen: dict[str, Any] = {"purity": purity} if name == "certified" else {"accept": purity}
    if name == "certified" and noise is not None:
        chosen |= {"sensitivity": noise.sensitivity, "specificity": noise.specificity}
    for key, value in parse_options(lines).items():
        owner, _, option = key.rpartition(".")
        if owner in ("", name):
            chosen[option] = value
    try:
        make_policy(name, **chosen)
    except (TypeError, ValueError) as error:
        raise BadInput(str(error), field="policy") from error
    return chosen


def _grow(known: list[KnownPool]) -> list[ClusterTree]:
    from clustering.trees.linkage import grow_tree

    return [grow_tree(entry.pool, seed=0) for entry in known]


def _play_all(
    name: str,
    options: dict[str, Any],
    known: list[KnownPool],
    trees: list[ClusterTree],
    seed: int,
    noise: Noise | None,
    budget: int | None,
    batch: int,
    costs: Costs,
) -> tuple[Curve, list[Run]]:
    """Play every class with one seed; their curves merged, and the plays."""
    from clustering.search import make_policy
    from clustering.simulation import merge_curves, play

    runs = [
        play(
            make_policy(name, **options),
            tree,
            entry.pool,
            entry.iou,
            seed=seed,
            noise=noise,
            budget=budget,
            batch=batch,
            costs=costs,
        )
        for entry, tree in zip(known, trees, strict=True)
    ]
    return merge_curves([run.curve for run in runs]), runs


def _summary(curves: list[Curve], runs: list[list[Run]], purity: float, costs: Costs) -> dict[str, Any]:
    """Final values, mean over seeds with their range, and how often the promise was broken in any class."""
    import numpy as np

    from clustering.simulation import violations

    def spread(values: list[float]) -> dict[str, float | None]:
        told = [v for v in values if not np.isnan(v)]
        if not told:
            return {"mean": None, "low": None, "high": None}
        return {"mean": float(np.mean(told)), "low": float(min(told)), "high": float(max(told))}

    worst = [run.worst_precision for plays in runs for run in plays]
    broken, plays, lower, upper = violations(worst, purity)
    questions = [float(curve.questions[-1]) for curve in curves]
    masks = [float(curve.masks[-1]) for curve in curves]
    hours = [float(curve.hours[-1]) for curve in curves]
    return {
        "questions": spread(questions),
        "hours": spread(hours),
        "masks": spread(masks),
        "masks_per_question": spread(
            [m / q if q else float("nan") for m, q in zip(masks, questions, strict=True)]
        ),
        "hours_by_hand": spread([m * costs.drawn_mask / 3600.0 for m in masks]),
        "precision": spread([float(curve.precision[-1]) for curve in curves]),
        "propagated_precision": spread([float(curve.propagated_precision[-1]) for curve in curves]),
        "sq": spread([float(curve.quality[-1]) for curve in curves]),
        "recall": spread([float(curve.recall[-1]) for curve in curves]),
        "promise_broken": {"count": broken, "plays": plays, "share_low": lower, "share_high": upper},
    }


def _curve_json(curve: Curve) -> dict[str, list[float | None]]:
    names = ("questions", "hours", "masks", "precision", "propagated_precision", "quality", "recall")
    return {
        # JSON knows no NaN
        name: [None if v != v else round(float(v), 6) for v in getattr(curve, name).tolist()]
        for name in names
    }


def _print_table(summaries: dict[str, dict[str, Any]], purity: float) -> None:
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
