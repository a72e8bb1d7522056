"""A process that holds a lease, for tests that fight over it.

``lease_driver.py URL NAME turns N`` says ``ready``, waits for a line, takes the lease N times, each time adds
one to the title of project 1, and prints the fencing numbers it was given.

``lease_driver.py URL NAME hold HEARTBEAT_S`` takes the lease once, says ``held``, and obeys its standard
input: ``write TEXT`` sets the title (answers ``written`` or ``lost``), ``tear TEXT`` sets it inside a
transaction that it never ends (answers ``inside``).
"""

from __future__ import annotations

import json
import sys
import time

from ml_backend.errors import LeaseLost
from sync.store.database import Store
from sync.store.lease import Lease, worker_name
from sync.store.tables import ProjectRecord


def take_turns(store: Store, name: str, turns: int) -> list[int]:
    fences: list[int] = []
    print("ready", flush=True)
    sys.stdin.readline()
    while len(fences) < turns:
        lease = Lease(store, name, worker_name(), ttl_s=600, heartbeat_s=0)
        if not lease.acquire():
            continue
        with lease:
            with store.write(lease.fence) as session:
                row = session.get_one(ProjectRecord, 1)
                row.title = str(int(row.title) + 1)
            fences.append(lease.fence.number)
    return fences


def obey(store: Store, name: str, heartbeat_s: float) -> None:
    lease = Lease(store, name, worker_name(), ttl_s=2.0, heartbeat_s=heartbeat_s)
    assert lease.acquire()
    fence = lease.fence
    print("held", flush=True)
    for line in sys.stdin:
        order, _, text = line.strip().partition(" ")
        try:
            with store.write(fence) as session:
                session.get_one(ProjectRecord, 1).title = text
                if order == "tear":
                    session.flush()
                    print("inside", flush=True)
                    time.sleep(600)
            print("written", flush=True)
        except LeaseLost:
            print("lost", flush=True)


if __name__ == "__main__":
    url, name, what, number = sys.argv[1:]
    if what == "turns":
        print(json.dumps(take_turns(Store(url), name, int(number))))
    else:
        obey(Store(url), name, float(number))
