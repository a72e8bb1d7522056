"""What a project's network gains from starting with the shipped weights instead of random ones.

``python -m bench.click_network.project_start --data SETS --set bsds500_segments``: both are trained alike on
one half of the pictures; the same objects of the other half are clicked. One line of JSON each, as the judge
prints them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.click_network.judge import kept_file, result_row, run_targets
from ml_backend.clicks.evaluation.experiment import ClickExperiment, pick_targets, split_images
from ml_backend.clicks.project_network.click_net import ProjectSegmenter, save_network
from ml_backend.clicks.training.options import ClickOptions
from ml_backend.clicks.training.trainer import train_network
from ml_backend.masks.coco import load_coco


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", dest="name", default="bsds500_segments")
    parser.add_argument("--first-weights", nargs="*", default=["random", "shipped"])
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--reports", type=Path)
    arguments = parser.parse_args()
    whole = load_coco(
        arguments.data / arguments.name / "images", arguments.data / arguments.name / "annotations.json"
    )
    split = split_images(whole, train_fraction=0.5, seed=0)
    targets = pick_targets(split.test, whole.categories, ClickExperiment(limit=arguments.limit), {})
    runs = []
    for first in arguments.first_weights:
        options = ClickOptions(
            iterations=arguments.iterations, seconds=float("inf"), first_weights=first, device="cpu"
        )
        with tempfile.TemporaryDirectory() as folder:
            network, manifest, _, _ = train_network(
                [image.example() for image in split.train], options, lambda share, line: None
            )
            save_network(Path(folder), network, manifest)
            kept = kept_file(arguments.reports, arguments.name, "ritm", f"project-{first}")
            runs.append(run_targets(ProjectSegmenter(Path(folder)), targets, "ritm", kept))
        print(
            json.dumps(result_row(arguments.name, "ritm", f"project-{first}", runs[-1], runs[0])), flush=True
        )


if __name__ == "__main__":
    main()
