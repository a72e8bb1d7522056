"""``groundswell pool``: a pool of real detections whose truth is known, for ``groundswell simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ml_backend.examples import Example
    from ml_backend.instances import Instances
    from ml_backend.learners.base import Predictor
    from ml_backend.masks.coco import CocoSet

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
            float, typer.Option(min=0.0, max=1.0, help="lowest score kept: low, so that bad masks are in")
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
        label), label, image and labels. `groundswell simulate` plays annotation economics on it.

        Example: groundswell pool --images cells/images --coco cells/annotations.json --out pool.npz
        """
        import tempfile

        import numpy as np

        from ml_backend.errors import BadInput
        from ml_backend.learners.base import TrainSpec
        from ml_backend.learners.registry import get_learner
        from ml_backend.learners.training_job import run_training
        from ml_backend.masks.coco import load_coco

        data = load_coco(images, coco)
        if merge_classes is not None:
            data = _merged(data, merge_classes)
        examples = data.examples()
        order = np.random.default_rng(seed).permutation(len(examples))
        chosen = get_learner(learner)
        with tempfile.TemporaryDirectory(prefix="groundswell-pool-") as scratch:
            if model is not None:
                folder, rest = model, [examples[i] for i in order]
                started_from = str(model)
            else:
                count = train_images or round(train_fraction * len(examples))
                if not 0 < count < len(examples):
                    raise BadInput(
                        f"training on {count} of {len(examples)} images leaves one side without any",
                        field="train_fraction",
                    )
                folder = save_model or Path(scratch) / "model"
                rest = [examples[i] for i in order[count:]]
                spec = TrainSpec(
                    data.categories,
                    tuple(examples[i] for i in order[:count]),
                    (),
                    preset=preset,
                    seed=seed,
                    device=device,
                    options=_options(option or [], iterations),
                )
                report = run_training(chosen, spec, folder, _quiet if as_json else _say)
                started_from = report.started_from
            predictor = chosen.load(folder, device=device)
            if tuple(predictor.labels) != data.categories:
                raise BadInput(
                    f"the model knows {list(predictor.labels)}, the file {list(data.categories)}",
                    field="model",
                )
            columns = _detect(predictor, rest, threshold)
        out.parent.mkdir(parents=True, exist_ok=True)
        columns["labels"] = np.array(data.categories, np.str_)
        np.savez_compressed(out, **columns)  # type: ignore[arg-type]
        summary = _summary(columns, len(rest), started_from)
        if as_json:
            typer.echo(json.dumps(summary))
        else:
            typer.echo(
                f"{summary['instances']} instances on {summary['images']} images written to {out}; "
                f"{summary['good_share']:.0%} have IoU ≥ 0.75 ({started_from})"
            )


def _merged(data: CocoSet, name: str) -> CocoSet:
    """The same instances, all of one class."""
    from dataclasses import replace

    from ml_backend.errors import BadInput

    if not name.strip():
        raise BadInput("the name of the merged class is empty", field="merge_classes")
    images = tuple(replace(image, label=(0,) * len(image.label)) for image in data.images)
    return replace(data, categories=(name,), images=images)


def _options(given: list[str], iterations: int | None) -> dict[str, Any]:
    from ml_backend.errors import BadInput

    options: dict[str, Any] = {} if iterations is None else {"iterations": iterations}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"{pair!r} is not NAME=VALUE", field="option")
        options[name] = value
    return options


def _detect(predictor: Predictor, examples: list[Example], threshold: float) -> dict[str, npt.NDArray[Any]]:
    """Columns of all instances found at ``threshold`` or above, with their true IoU."""
    import numpy as np

    from ml_backend.images.decode import read_image
    from ml_backend.learners.evaluation import match_iou
    from ml_backend.masks.statistics import STATISTICS, mask_statistics

    parts: list[tuple[int, Instances, npt.NDArray[np.float32]]] = []
    for i, example in enumerate(examples):
        found = next(iter(predictor.predict([read_image(example.image)])))
        found = found.take(found.score >= threshold)
        parts.append((i, found, match_iou(found, example)))
    found_all = [found for _, found, _ in parts]
    rles = [rle for found in found_all for rle in found.rle]
    extras = mask_statistics(rles) if rles else np.zeros((0, len(STATISTICS)), np.float32)
    return {
        "embedding": np.concatenate([found.embedding for found in found_all]),
        "score": np.concatenate([found.score for found in found_all]),
        "quality": np.concatenate([found.quality for found in found_all]),
        "extras": extras,
        "iou": np.concatenate([iou for _, _, iou in parts]),
        "label": np.concatenate([found.label for found in found_all]),
        "image": np.repeat([i for i, _, _ in parts], [len(found) for found in found_all]),
    }


def _summary(columns: dict[str, npt.NDArray[Any]], images: int, started_from: str) -> dict[str, Any]:
    import numpy as np

    iou, n = columns["iou"], len(columns["iou"])
    known = n > 1 and float(iou.std()) > 0

    def correlation(name: str) -> float | None:
        spread = known and float(columns[name].std()) > 0
        return round(float(np.corrcoef(columns[name], iou)[0, 1]), 3) if spread else None

    return {
        "images": images,
        "instances": n,
        "good_share": round(float((iou >= 0.75).mean()), 4) if n else 0.0,
        "correlation_score_iou": correlation("score"),
        "correlation_quality_iou": correlation("quality"),
        "started_from": started_from,
    }


def _say(share: float, line: str) -> None:
    typer.secho(f"{share:4.0%} {line}", err=True, dim=True)


def _quiet(share: float, line: str) -> None:
    """Progress is not wanted beside JSON."""
