"""A small Mask R-CNN trained on a Ray cluster of one node of one core, against the worker with one thread.

    python -m bench.train_on_ray             # needs the extra ray
    python -m bench.train_on_ray --quick     # few steps

One line of JSON: seconds on Ray, those in the worker as the baseline, digests of the version's files, which
must be equal, and ``worker_mib``: by how much the memory of this process grew while pictures and the version
travelled. The seconds on Ray hold those in which pictures travel and a process is started.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.detection_set import add_arguments, load_examples, print_figure, with_training_environment
from bench.executor import _cluster
from ml_backend.artifacts.files import unguarded
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.training_job import run_training
from sync.executor.ray import RayExecutor
from sync.rounds.far_training import train_elsewhere
from sync.rounds.progress import Progress
from sync.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--iterations", type=int, default=100, help="steps (default: 100)")
    parser.add_argument("--quick", action="store_true", help="5 steps")
    options = parser.parse_args()
    with_training_environment("bench.train_on_ray")
    with tempfile.TemporaryDirectory(prefix="gs-ray-") as scratch:
        os.environ |= {"RAY_TMPDIR": scratch, "TMPDIR": scratch, "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ |= {"OMP_NUM_THREADS": "1"}
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        measure(options, Path(scratch))


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Print the figure."""
    _, labels, examples = load_examples(options, scratch)
    chosen = {"weights": "none", "iterations": 5 if options.quick else options.iterations}
    spec = TrainSpec(
        labels,
        examples[:-4],
        examples[-4:],
        seed=options.seed,
        options=chosen,
        device="cpu",
        resume=scratch / "resume-here",
    )
    here, there = scratch / "here", scratch / "there"
    here.mkdir()
    there.mkdir()
    started = time.perf_counter()
    run_training("maskrcnn", spec, here, lambda share, line: None)
    baseline = time.perf_counter() - started
    settings = Settings(data_dir=scratch / "data", device="cpu", ray_train_cpus=1)
    with _cluster() as (address, _):
        executor = RayExecutor(address)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        away = replace(spec, resume=scratch / "resume-there")
        train_elsewhere(executor, settings, "maskrcnn", away, there, Progress(), guard=unguarded)
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        executor.close()
    print_figure(
        "executor_train",
        seconds,
        "s",
        baseline,
        pictures=len(examples),
        sent_mib=round(sum(example.image.stat().st_size for example in examples) / 1024**2, 1),
        version_mib=round(sum(path.stat().st_size for path in here.iterdir()) / 1024**2, 1),
        worker_mib=round(grown / 1024, 1),
        digest=_digest(there),
        in_worker=_digest(here),
    )


def _digest(folder: Path) -> str:
    """Of the weights and their description; curves hold times."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
