"""The process that speaks to Ray for a worker: ``ray_driver ADDRESS CPUS CACHE_BYTES WAIT_S``.

Why a process? Ray ends the process that is connected to it when the head of the cluster is gone for a minute,
and puts signal handlers of its own into it; a worker must survive the one and keep its own. And when this
process is killed, Ray cancels all that runs for it, at once. It ends when the worker does.

Tasks run in any order; their results are sent in the order of the inputs. Ray runs a task again whose process
or machine was lost.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict, deque
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from ml_backend.errors import ExecutorError, GroundswellError
from sync.executor.base import Resource
from sync.executor.folders import digest_of, pack
from sync.executor.frames import Begin, Done, End, Failed, Item, Ready, Result, Waits, Wanted, read, write
from sync.executor.groups import GroupSize
from sync.executor.ray_node import Call, code_digest, environment_on_node, run_group
from sync.executor.ray_stream import run_stream

_RETRIES: Final = 5
_FOLDERS_HELD: Final = 4
_ASK_S: Final = 2.0
_TASKS_EACH: Final = 2
"""tasks under way for each that can run at once: the next one is there when one ends"""
_MOST_AHEAD: Final = 512
"""inputs under way: they are in memory"""
_TICK_S: Final = 0.1


class Driver:
    """Runs jobs one after the other on a cluster that this process is connected to.

    ``cpus``, ``cache_bytes``, ``wait_s`` : see ``sync.executor.ray.RayExecutor``
    """

    def __init__(
        self, inbox: queue.Queue[Any], out: IO[bytes], *, cpus: int, cache_bytes: int, wait_s: float
    ) -> None:
        self._inbox = inbox
        self._out = out
        self._cpus = cpus
        self._cache_bytes = cache_bytes
        self._wait_s = wait_s
        self._packed: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self._asked = 0.0
        self._slots = 1

    def run(self) -> None:
        """Jobs until the worker ends, which ends this process."""
        while True:
            begin = self._inbox.get()
            if isinstance(begin, Exception):
                write(self._out, Failed(_told(begin)))
                return
            if not isinstance(begin, Begin):
                continue  # an input that the last job did not need any more
            try:
                self._job(begin)
            except Exception as error:
                write(self._out, Failed(_told(error)))
                return  # inputs of the job may be on their way: the worker starts another process

    def _job(self, begin: Begin) -> None:
        import ray

        refs: dict[str, Any] = {}
        digests: dict[str, str] = {}
        for name, path in begin.folders.items():
            digests[name], ref = self._packed_folder(path)
            refs[digests[name]] = ref
        said = pickle.dumps((begin.function, begin.shared, sorted(digests.items())))
        name = hashlib.sha256(said).hexdigest()
        call = Call(begin.function, begin.shared, name, digests, self._cache_bytes, code_digest())
        if begin.streams:
            run_stream(
                begin,
                call,
                refs,
                cpus_now=partial(_cpus_of_one, begin.resource, begin.most_cpus, self._cpus),
                message=lambda wait: self._message(wait=wait),
                send=lambda message: write(self._out, message),
                say_why=partial(self._say_why, field="ray_train_cpus"),
            )
        else:
            self._map(begin, ray.put(call), refs)

    def _map(self, begin: Begin, call: Any, refs: dict[str, Any]) -> None:
        import ray

        is_gpu = begin.resource == "gpu"
        task = ray.remote(
            num_cpus=self._cpus,
            num_gpus=int(is_gpu),
            max_retries=_RETRIES,
            max_calls=0,  # by default a process with a GPU ends after one task, and its model with it
            name=begin.what,
            runtime_env=environment_on_node(self._cpus),
        )(run_group)
        pending: deque[tuple[Any, int]] = deque()
        size = GroupSize()
        group: list[Any] = []
        under_way = wanted = 0
        ended = False
        last_result = asked = time.monotonic()
        while not (ended and not pending):
            slots = self._slots_now(begin.resource)
            each = size.within(_MOST_AHEAD // (_TASKS_EACH * slots))
            room = min(_TASKS_EACH * slots * each, _MOST_AHEAD) - under_way - wanted
            if room > 0 and not ended:
                write(self._out, Wanted(room))
                wanted += room
            is_idle = not ended and len(pending) < slots
            message = self._message(wait=is_idle)
            while message is not None:
                if isinstance(message, End):
                    ended = True
                else:
                    group.append(message.value)
                    under_way += 1
                    wanted -= 1
                if len(group) >= each or len(pending) < slots:
                    break
                message = self._message(wait=False)
            # inputs may be slow to come: no machine waits for the rest of a group
            if group and (ended or len(group) >= each or len(pending) < slots):
                pending.append((task.remote(call, refs, group), len(group)))
                group = []
            if not pending:
                continue
            done, _ = ray.wait([pending[0][0]], timeout=0 if is_idle else _TICK_S)
            if done:
                task_ref, inputs = pending.popleft()
                outcome = ray.get(task_ref)
                for value in outcome.values:
                    write(self._out, Result(value))
                if outcome.error is not None:
                    raise outcome.error
                under_way -= inputs
                size.note(inputs, outcome.seconds)
                last_result = asked = time.monotonic()
            elif time.monotonic() - asked > min(_ASK_S, self._wait_s / 2):
                asked = time.monotonic()
                if not _slots(begin.resource, self._cpus):
                    self._say_why(begin.resource, self._cpus, asked - last_result, field="ray_task_cpus")
        write(self._out, Done())

    def _message(self, *, wait: bool) -> Item | End | None:
        try:
            found: Item | End = self._inbox.get(timeout=_TICK_S) if wait else self._inbox.get_nowait()
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def _packed_folder(self, path: str) -> tuple[str, Any]:
        """Digest of a folder, and the reference to its bytes; a folder of a job never changes."""
        import ray

        if path not in self._packed:
            packed = pack(Path(path))
            self._packed[path] = (digest_of(packed), ray.put(np.frombuffer(packed, np.uint8)))
        self._packed.move_to_end(path)
        while len(self._packed) > _FOLDERS_HELD:
            self._packed.popitem(last=False)
        return self._packed[path]

    def _slots_now(self, resource: Resource) -> int:
        """Tasks that can run at once, as it was known lately; at least one."""
        if time.monotonic() - self._asked > _ASK_S:
            self._asked = time.monotonic()
            self._slots = _slots(resource, self._cpus)
        return max(self._slots, 1)

    def _say_why(self, resource: Resource, cpus: int, waited_s: float, *, field: str) -> None:
        """Tell why nothing runs. Raises ExecutorError after ``wait_s`` seconds where no machine could."""
        cores = "a CPU core" if cpus == 1 else f"{cpus} CPU cores"
        if _slots(resource, cpus):
            has = f"a GPU and {cores}" if resource == "gpu" else cores
            write(self._out, Waits(f"waits until a machine of the Ray cluster has {has} free"))
            return
        line = f"no machine of the Ray cluster has {'a GPU' if resource == 'gpu' else cores} for tasks"
        if waited_s >= self._wait_s:
            raise ExecutorError(
                line,
                field="device" if resource == "gpu" else field,
                hint="Nothing is lost: the next look tries again. Start a machine that has it (`ray start "
                "--address=HEAD:6379`), or set GROUNDSWELL_EXECUTOR=local to go on without Ray",
            )
        write(self._out, Waits(f"waits: {line}"))


def _cpus_of_one(resource: Resource, most: int, others: int) -> int:
    """CPU cores of a long task: ``most``, or those of the largest machine if none has as many.

    ``others`` cores of the cluster are left for tasks of other jobs, if one core at least remains.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = [each for each in alive if resource == "cpu" or each.get("GPU", 0.0) >= 1]
    largest = max((int(each.get("CPU", 0.0)) for each in fit), default=0)
    cpus = min(most, largest) or most
    if sum(int(each.get("CPU", 0.0)) for each in alive) - cpus < others:
        cpus = max(1, min(cpus, largest - others)) if largest else cpus
    return cpus


def _slots(resource: Resource, cpus: int) -> int:
    """Tasks that fit at once on the machines that are there, if nothing else runs on them."""
    import ray

    slots = 0
    for node in ray.nodes():
        if node["Alive"]:
            fit = int(node["Resources"].get("CPU", 0.0)) // cpus
            slots += min(fit, int(node["Resources"].get("GPU", 0.0))) if resource == "gpu" else fit
    return slots


def _told(error: Exception) -> Exception:
    """What the worker should raise: a deliberate error as it is, others as something that can be sent."""
    from ray.exceptions import RayError, RayTaskError

    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, GroundswellError):
            return cause
        return RuntimeError(f"a task on a node of Ray failed: {error}")
    if isinstance(error, GroundswellError):
        return error
    if isinstance(error, RayError):
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return ExecutorError(
            f"Ray could not run a task ({type(error).__name__}: {first})",
            hint="Its logs on the nodes say more; often memory ran out. The next look goes on from here",
        )
    return RuntimeError("".join(traceback.format_exception(error)))


def _listen(pipe: IO[bytes], inbox: queue.Queue[Any]) -> None:
    """Pass messages on; end this process when the worker is gone."""
    while True:
        try:
            inbox.put(read(pipe))
        except EOFError:
            os._exit(0)
        except Exception as error:  # it cannot be unpickled here; the job ends with it
            inbox.put(error)


def main(arguments: list[str]) -> None:
    """Connect, say so, and run jobs."""
    address, cpus, cache_bytes, wait_s = arguments
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print must not get among the messages
    inbox: queue.Queue[Any] = queue.Queue()
    pipe = os.fdopen(os.dup(0), "rb")
    threading.Thread(target=_listen, args=(pipe, inbox), daemon=True).start()
    import ray

    try:
        ray.init(
            address=address,
            logging_level="ERROR",
            configure_logging=False,
            log_to_driver=False,
            namespace="groundswell",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        text = f"cannot join the Ray cluster at {address}: {error}"
        hint = (
            "Make this machine one of its nodes (`ray start`), with the same Ray, Python and RAY_AUTH_TOKEN"
        )
        write(out, Failed(ExecutorError(text, hint=hint)))
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd tell all; the worker decides
        signal.signal(number, signal.SIG_IGN)
    write(out, Ready(float(ray.cluster_resources().get("GPU", 0.0))))
    driver = Driver(inbox, out, cpus=int(cpus), cache_bytes=int(cache_bytes), wait_s=float(wait_s))
    driver.run()


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # the thread that reads holds the lock of its pipe, which an orderly end would wait for
