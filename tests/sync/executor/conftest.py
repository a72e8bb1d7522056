"""A Ray cluster on this machine: two nodes of one core each, the head among them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sync.executor.ray import RayExecutor
from tests.sync.executor.functions import DOOMED

ROOT = Path(__file__).resolve().parents[3]
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}


@pytest.fixture(scope="session")
def _ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gs-ray-"))  # pytest's own are too long for the names of sockets
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ray_environment(folder: Path) -> Iterator[None]:
    """What processes of Ray, and those that speak to it, must know. Other tests must not see it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DOOMED, str(folder / "doomed"))
        # also for the processes of nodes, which import what tests define
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "of-this-test-" + "0" * 32)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "300")  # a killed node is missed after a second
        patch.setenv("RAY_health_check_failure_threshold", "2")
        yield


@pytest.fixture(autouse=True)
def _ray_is_known(_ray_folder: Path) -> Iterator[None]:
    with _ray_environment(_ray_folder):
        yield


@pytest.fixture(scope="session")
def ray_cluster(_ray_folder: Path) -> Iterator[Any]:
    if find_spec("ray") is None:
        if os.environ.get("CI"):
            pytest.fail("ray is not installed")
        pytest.skip("ray is not installed: pip install -e '.[dev]'")
    with _ray_environment(_ray_folder):
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        cluster.add_node(**NODE)
        cluster.doomed = _ray_folder / "doomed"
    yield cluster
    with _ray_environment(_ray_folder):
        cluster.shutdown()


@pytest.fixture(scope="session")
def executor(ray_cluster: Any) -> Iterator[RayExecutor]:
    made = RayExecutor(ray_cluster.address, wait_s=1.0)
    yield made
    made.close()
