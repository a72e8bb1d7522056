"""``groundswell pool``: a pool of real detections whose truth is known, for ``groundswell simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    @app.command()
    def pool(
        images: Annotated[Path, typer.Option(help="folder of the images")],
        coco: Annotated[Path, typer.Option(help="COCO file with the true masks (or boxes)")],
        out: Annotated[Path, typer.Option(help="NumPy archive (.npz) to write")],
        train_fraction: Annotated[
            float, typer.Option(min=0.0, max=0.95, help="share of images the detector is trained on")
        ] = 0.5,
        train_images: Annotated[
            int | None, typer.Option(min=1, help="number of images to train on, instead of a share")
        ] = None,
        model: Annotated[
            Path | None, typer.Option(help="folder of a trained version: used as it is, on all images")
        ] = None,
        save_model: Annotated[Path | None, typer.Option(help="folder to keep the trained version in")] = None,
        learner: Annotated[str, typer.Option(help="maskrcnn or detectron2")] = "maskrcnn",
        preset: Annotated[str, typer.Option(help="light or full")] = "light",
        iterations: Annotated[int | None, typer.Option(min=1, help="training steps")] = None,
        option: Annotated[
            list[str] | None, typer.Option(help="NAME=VALUE of the learner, for example size=320; repeat")
        ] = None,
        threshold: Annotated[
            float, typer.Option(min=0.0, max=1.0, help="lowest score that is kept; low: keeps bad masks too")
        ] = 0.1,
        merge_classes: Annotated[
            str | None, typer.Option(help="treat all categories as one class of this name, such as object")
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
        seed: Annotated[int, typer.Option(help="of split and training")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
    ) -> None:
        """Train a detector on a part of a COCO set and keep what it finds on the rest, with the true IoU.

        The archive holds embedding, score, quality, extras, iou (with the best true mask of the same
        label), label, image and labels. `groundswell simulate` tries search policies on it.

        Example: groundswell pool --images cells/images --coco cells/annotations.json --out pool.npz
        """
        import json

        from ml_backend.masks.coco import load_coco
        from sync.console import parse_options, progress
        from sync.lab import detector_pool as lab

        options = {} if iterations is None else {"iterations": iterations}
        plan = lab.DetectorPoolPlan(
            train_fraction=train_fraction,
            train_images=train_images,
            model=model,
            save_model=save_model,
            learner=learner,
            preset=preset,
            options=options | parse_options(option or []),
            threshold=threshold,
            device=device,
            seed=seed,
        )
        data = load_coco(images, coco)
        if merge_classes is not None:
            data = lab.merge_classes(data, merge_classes)
        with progress(quiet=as_json) as report:
            found = lab.detector_pool(data, plan, report=report)
        found.save(out)
        summary = found.summary()
        if as_json:
            typer.echo(json.dumps(summary))
        else:
            typer.echo(
                f"{summary['instances']} instances on {summary['images']} images written to {out}; "
                f"{summary['good_share']:.0%} have IoU ≥ {lab.GOOD_IOU} ({summary['started_from']})"
            )
