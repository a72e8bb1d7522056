"""A long task of Ray that reads a stream of inputs and gives a stream of results: an actor on one machine.

It is no ordinary task of Ray because its inputs would stay in Ray's memory until its end: those of a training
are all pictures. Ray does not start it again; whoever asked for it knows what is there already.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from sync.executor.base import Resource, TaskLost
from sync.executor.frames import Begin, Done, End, Item, Result, Wanted
from sync.executor.ray_node import Call, environment_on_node, run_on_node

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["StreamTask", "run_stream"]

_ON_THEIR_WAY: Final = 2
_TICK_S: Final = 0.1
_ASK_S: Final = 2.0
_IN, _OUT = "in", "out"


class StreamTask:
    """The actor. Its inputs come by a thread beside the one in which the function runs."""

    def __init__(self, call: Call, packed: Mapping[str, ObjectRef[Any]]) -> None:
        self._call = call
        self._packed = packed
        self._inputs: queue.Queue[tuple[Any] | None] = queue.Queue(1)

    def is_there(self) -> None:
        """Answer, once a machine was found."""

    def give(self, value: Any) -> None:
        """One more input; waits until the one before it was taken."""
        self._inputs.put((value,))

    def end(self) -> None:
        """There are no more inputs."""
        self._inputs.put(None)

    def results(self) -> Iterator[Any]:
        """What the function gives. Raises what it raises."""
        yield from run_on_node(self._call, self._packed, self._given())

    def _given(self) -> Iterator[Any]:
        while (given := self._inputs.get()) is not None:
            yield given[0]


def run_stream(
    begin: Begin,
    call: Call,
    refs: Mapping[str, Any],
    *,
    cpus_now: Callable[[], int],
    message: Callable[[bool], Item | End | None],
    send: Callable[[object], None],
    say_why: Callable[[Resource, int, float], None],
) -> None:
    """Run one such task. ``message(wait)`` gives what comes from the worker, ``send`` answers it.

    ``cpus_now()``: CPU cores that it should have on the machines that are there now.
    ``say_why(resource, cpus, seconds)`` is called now and then while there is no machine. Raises TaskLost
    when the machine was lost, and what the function raises.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    began = time.monotonic()
    actor = None
    try:
        while actor is None:
            cpus = cpus_now()
            actor = _actor(begin.resource, cpus).remote(call, refs)
            there = actor.is_there.options(concurrency_group=_IN).remote()
            results = actor.results.options(concurrency_group=_OUT, num_returns="streaming").remote()
            while not ray.wait([there], timeout=_ASK_S)[0]:
                say_why(begin.resource, cpus, time.monotonic() - began)
                if cpus_now() != cpus:  # machines have come or gone
                    ray.kill(actor)
                    actor = None
                    break
        ray.get(there)
        on_their_way: list[Any] = []
        wanted, ended = 0, False
        while True:
            room = _ON_THEIR_WAY - len(on_their_way) - wanted
            if room > 0 and not ended:
                send(Wanted(room))
                wanted += room
            waits = not (ended or on_their_way)
            while not ended and (came := message(waits)) is not None:
                waits = False
                if isinstance(came, End):
                    ended = True
                    on_their_way.append(actor.end.options(concurrency_group=_IN).remote())
                else:
                    given = actor.give.options(concurrency_group=_IN).remote(came.value)
                    on_their_way.append(given)
                    wanted -= 1
            ready, _ = ray.wait([results, *on_their_way], timeout=0 if waits else _TICK_S)
            if results in ready:
                try:
                    send(Result(ray.get(next(results))))
                except StopIteration:
                    break
            else:
                on_their_way = [ref for ref in on_their_way if ref not in ready]
    except RayTaskError:
        raise
    except RayError as error:
        lines = str(error).strip().splitlines()
        raise TaskLost(
            f"the machine of the {begin.what} was lost, or its process ended ({type(error).__name__}"
            + (f": {lines[0]})" if lines else ")"),
            hint="Ray's logs on the nodes say more; often memory ran out",
        ) from error
    finally:
        if actor is not None:
            ray.kill(actor)
    send(Done())


def _actor(resource: Resource, cpus: int) -> Any:
    """``StreamTask`` as Ray starts it."""
    import ray

    return ray.remote(
        num_cpus=cpus,
        num_gpus=int(resource == "gpu"),
        max_restarts=0,
        runtime_env=environment_on_node(cpus),
        concurrency_groups={_IN: 1, _OUT: 1},  # in each of them calls keep their order
    )(StreamTask)
