"""Train a click network that knows no class: ``python -m bench.click_network.run --data SETS --out DIR``.

Goes on where it stopped when it is called again with the same folder. OUT then holds ``checkpoint.pt`` and
the finished network as a click version (weights.safetensors, click.json).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bench.click_network.samples import cut_out
from bench.click_network.scenes import SceneMaker
from bench.click_network.sets import SETS, TEXTURES, divide, texture_paths
from bench.click_network.train import Plan, train
from ml_backend.clicks.project_network.click_net import NetworkManifest, save_network
from ml_backend.images.decode import read_image

FIRST_SIDE = 160.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help=f"folder of the sets {', '.join(SETS)}")
    parser.add_argument("--out", type=Path, required=True)
    usual = Plan()
    for option, value in (
        ("--size", usual.size),
        ("--small", usual.small),
        ("--width", usual.width),
        ("--batch", usual.batch),
        ("--large-batch", usual.large_batch),
        ("--slots", usual.slots),
        ("--large-share", usual.large_share),
        ("--last-large-share", usual.last_large_share),
        ("--steps", usual.steps),
        ("--last-steps", usual.last_steps),
        ("--learning-rate", usual.learning_rate),
        ("--mean-decay", usual.mean_decay),
        ("--generated", usual.generated),
        ("--seed", usual.seed),
        ("--save-every", usual.save_every),
    ):
        parser.add_argument(option, type=type(value), default=value)
    arguments = vars(parser.parse_args())
    data, out = arguments.pop("data"), arguments.pop("out")
    plan = Plan(**arguments)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(plan.seed)
    sets = [divide(data / name).examples() for name in SETS]
    cutouts = [c for one in sets for c in cut_out(one, 300, rng)]
    textures = [read_image(e.image) for one in sets for e in one]
    textures += [read_image(path) for name in TEXTURES for path in texture_paths(data / name)[::4]]
    network = train(
        plan, sets, SceneMaker(textures, cutouts), out / "checkpoint.pt", lambda line: print(line, flush=True)
    )
    save_network(out, network, NetworkManifest(size=plan.size, width=plan.width, first_side=FIRST_SIDE))


if __name__ == "__main__":
    main()
