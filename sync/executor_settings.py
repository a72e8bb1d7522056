"""Settings that say where work runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ml_backend.settings import BackendSettings

__all__ = ["ExecutorSettings"]


class ExecutorSettings(BackendSettings):
    """Where the worker has its tasks run, see ``sync.executor``."""

    executor: Literal["local", "ray"] = Field(
        default="local",
        description="where models are trained and pictures and pools are worked on (inference, embeddings, "
        "crops, click embeddings, trees): local: on the worker's machine; ray: on the machines of a Ray "
        "cluster",
    )
    local_processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="with executor=local: how many processes look at pictures and grow trees, for machines "
        "with many cores and no GPU; 1: the worker itself",
    )
    ray_address: str = Field(
        default="auto",
        description="host:port of the Ray cluster, which the worker's machine has joined; auto: the one that "
        "it has joined",
    )
    ray_task_cpus: int = Field(
        default=1, ge=1, description="CPU cores, and threads, of one task on a Ray cluster"
    )
    ray_train_cpus: int = Field(
        default=4,
        ge=0,
        description="CPU cores, and threads, of a training on a Ray cluster; fewer where no machine has as "
        "many. 0: the worker trains itself",
    )
    ray_wait_s: float = Field(
        default=60.0,
        ge=0.0,
        description="seconds to wait for a machine of the Ray cluster with what a task needs (GPU, "
        "ray_task_cpus), before the look ends with an error",
    )
    ray_cache_bytes: int = Field(
        default=5 * 1024**3, ge=0, description="bytes of models that each machine of a Ray cluster keeps"
    )

    @field_validator("ray_address")
    @classmethod
    def _is_address(cls, address: str) -> str:
        host, colon, port = address.rpartition(":")
        is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
        if (address != "auto" and not (host and colon and is_port)) or "//" in address:
            raise ValueError(f"{address!r} is not host:port, such as head:6379, and not auto")
        return address
