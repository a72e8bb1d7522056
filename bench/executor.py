"""Pictures a second with processes of this machine, against the worker alone, and on Ray, against one node.

    python -m bench.executor             # needs the extra ray and two idle cores
    python -m bench.executor --no-ray    # the processes of this machine only
    python -m bench.executor --quick     # few pictures, a version trained for a few steps

One line of JSON per figure: name, value, unit, baseline, ratio, and the digest of all results.

``executor_infer_processes`` (and embed, crops): so many processes (``local_processes``), which
share the threads; baseline: the worker alone with all threads. ``one_thread``: the digest of the worker alone
with one thread, which must be theirs when each of them has one (``threads_each``).

``executor_infer`` (and embed, crops): two nodes of Ray of one core each; baseline: one such node. The digest
must be the same on one node, on two, in the worker itself with one thread, and when one of two is killed
half-way (``executor_infer_killed``).

``load`` is the load of this machine before the run: on a busy machine the ratios mean nothing. Models are
loaded before the time counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bench.detection_set import add_arguments, load_examples, print_figure, with_training_environment
from ml_backend.learners.base import TrainSpec
from ml_backend.learners.registry import LEARNERS
from ml_backend.learners.training_job import run_training
from sync.executor.base import Executor, Job
from sync.executor.local import LocalExecutor
from sync.executor.processes import ProcessExecutor, threads_each
from sync.executor.ray import RayExecutor
from sync.review.crop_tasks import Cutting, ToCut, cut
from sync.rounds.loaded_pictures import Picture
from sync.rounds.look_tasks import MODEL, Asked, Describing, Finding, describe, find

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200 * 1024**2}
T = TypeVar("T")
Measured = tuple[str, Job[Any, Any, Any], Sequence[Any]]
"""name of the figure, what is done, and its inputs"""
BATCH = 4
"""pictures a task, as ``infer_batch`` and the worker's start order have them"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--model", type=Path, help="folder of a trained version (default: one is trained)")
    parser.add_argument("--iterations", type=int, default=150, help="of the version trained here")
    parser.add_argument("--infer", type=int, default=160, help="pictures looked at (default: 160)")
    parser.add_argument("--embed", type=int, default=1600, help="pictures embedded (default: 1600)")
    parser.add_argument("--crops", type=int, default=1600, help="pictures with crops (default: 1600)")
    parser.add_argument("--processes", type=int, default=2, help="of this machine (default: 2)")
    parser.add_argument("--no-ray", action="store_true", help="measure the processes of this machine only")
    parser.add_argument("--quick", action="store_true", help="16 to 64 pictures, 10 steps of training")
    options = parser.parse_args()
    with_training_environment("bench.executor")
    if options.quick:
        options.iterations, options.infer = 10, 16
        options.embed = options.crops = 64
    with tempfile.TemporaryDirectory(prefix="gs-ray-") as scratch:
        os.environ |= {"RAY_TMPDIR": scratch, "TMPDIR": scratch, "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        measure(options, Path(scratch))


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Print all figures."""
    _, labels, examples = load_examples(options, scratch)
    folder = options.model
    if folder is None:
        folder = scratch / "version"
        chosen = {"weights": "none", "iterations": options.iterations}
        spec = TrainSpec(labels, examples, (), seed=options.seed, options=chosen, device="cpu")
        run_training("maskrcnn", spec, folder, lambda share, line: None)
    files = [Picture(None, example.image.read_bytes(), 10**9) for example in examples]
    finding = Finding(LEARNERS["maskrcnn"], "cpu", False, 0.5, "own", "classical", True)
    infer = Job(find, finding, folders={MODEL: folder})
    looks = [[Asked(picture, True) for picture in batch] for batch in _batches(files, options.infer)]
    shown = [ToCut(picture, example.rle) for picture, example in zip(files, examples, strict=True)]
    jobs: list[Measured] = [
        ("infer", infer, looks),
        ("embed", Job(describe, Describing("classical")), _batches(files, options.embed)),
        ("crops", Job(cut, Cutting(448)), _batches(shown, options.crops)),
    ]
    load = round(os.getloadavg()[0], 2)
    alone = measure_processes(options.processes, jobs, load)
    if options.no_ray:
        return
    with _cluster() as (address, cluster):
        ray = RayExecutor(address)
        before = {name: _run(ray, job, inputs) for name, job, inputs in jobs}
        second = cluster.add_node(**NODE)
        for name, job, inputs in jobs:
            seconds, digest = _run(ray, job, inputs)
            count = sum(map(len, inputs))
            facts = {"pictures": count, "digest": digest, "one_node": before[name][1], "load": load}
            baseline = count / before[name][0]
            print_figure(f"executor_{name}", count / seconds, "image/s", baseline, **facts)
        seconds, digest = _run(ray, infer, looks, half_way=lambda: _kill(second))
        ray.close()
    baseline = options.infer / before["infer"][0]
    facts = {"pictures": options.infer, "digest": digest, "one_node": before["infer"][1]}
    print_figure("executor_infer_killed", options.infer / seconds, "image/s", baseline, **facts)
    seconds, digest = alone["infer"]
    facts["digest"] = digest
    print_figure("executor_infer_in_worker", options.infer / seconds, "image/s", baseline, **facts)


def measure_processes(count: int, jobs: Sequence[Measured], load: float) -> dict[str, tuple[float, str]]:
    """Print the figures of processes of this machine; seconds and digest of the worker with one thread."""
    import torch

    before = {name: _run(LocalExecutor(), job, inputs) for name, job, inputs in jobs}
    executor = ProcessExecutor(count)
    shared = {name: _run(executor, job, inputs) for name, job, inputs in jobs}
    executor.close()
    all_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = {name: _run(LocalExecutor(), job, inputs) for name, job, inputs in jobs}
    for name, _, inputs in jobs:
        seconds, digest = shared[name]
        pictures = sum(map(len, inputs))
        facts = {"pictures": pictures, "processes": count, "threads_each": threads_each(count), "load": load}
        facts |= {"threads_alone": all_threads, "digest": digest, "one_thread": alone[name][1]}
        facts["one_thread_rate"] = round(pictures / alone[name][0], 2)
        print_figure(
            f"executor_{name}_processes", pictures / seconds, "image/s", pictures / before[name][0], **facts
        )
    return alone


def _batches(files: Sequence[T], count: int) -> list[list[T]]:
    chosen = [files[i % len(files)] for i in range(count)]
    return [chosen[start : start + BATCH] for start in range(0, count, BATCH)]


def _run(
    executor: Executor,
    job: Job[Any, Any, Any],
    inputs: Sequence[Any],
    half_way: Callable[[], None] | None = None,
) -> tuple[float, str]:
    """Seconds, and the digest of all results in order. Models are loaded before."""
    for _ in executor.map(job, inputs[:8]):
        pass
    results: list[Any] = []
    started = time.perf_counter()
    for number, result in enumerate(executor.map(job, inputs)):
        results.append(result)
        if half_way is not None and number == len(inputs) // 2:
            half_way()
    seconds = time.perf_counter() - started
    digest = hashlib.sha256()
    for result in results:  # afterwards: it would take a core from those that are measured
        digest.update(pickle.dumps(_plain(result)))
    return seconds, digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """The same as tuples and bytes: what pickle makes of an array depends on where it came from."""
    if hasattr(value, "__slots__"):
        return tuple(_plain(getattr(value, name)) for name in value.__slots__)
    if hasattr(value, "tobytes"):
        return value.tobytes()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(each) for each in value)
    if isinstance(value, dict):
        return tuple((name, _plain(value[name])) for name in sorted(value))
    return repr(value)


@contextmanager
def _cluster() -> Iterator[tuple[str, Any]]:
    """A head that runs no task, and one node."""
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE)
        yield cluster.address, cluster
    finally:
        for node in (*cluster.worker_nodes, cluster.head_node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)


def _kill(node: Any) -> None:
    """All processes of a node at once, as when its machine is switched off."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in (*raylet.children(recursive=True), raylet):
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
