from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from checkpoints import Fenced, LeaseHeld, LeaseLost, SQLAlchemySaver, process_owner


def test_one_owner_at_a_time(saver):
    lease = saver.acquire_lease("t", owner="a", ttl=60)

    assert lease.thread_id == "t"
    assert lease.owner == "a"
    assert timedelta(seconds=58) < lease.expires - datetime.now(UTC) < timedelta(seconds=62)
    with pytest.raises(LeaseHeld, match="'t' is being run by a until") as refused:
        saver.acquire_lease("t", owner="b", ttl=60)
    assert (refused.value.thread_id, refused.value.owner) == ("t", "a")
    assert abs(refused.value.expires - lease.expires) < timedelta(milliseconds=1)
    saver.acquire_lease("t", owner="a", ttl=60)
    saver.acquire_lease("other", owner="b", ttl=60)
    assert saver.lease_of("t").owner == "a"
    assert [(each.thread_id, each.owner) for each in saver.leases()] == [("other", "b"), ("t", "a")]


def test_a_released_lease_is_free(saver):
    saver.acquire_lease("t", owner="a", ttl=60)
    saver.release_lease("t", owner="b")
    assert saver.lease_of("t").owner == "a"
    saver.release_lease("t", owner="a")
    saver.release_lease("t", owner="a")
    assert saver.lease_of("t") is None
    saver.acquire_lease("t", owner="b", ttl=60)
    with pytest.raises(LeaseLost, match="no longer holds"):
        saver.renew_lease("t", owner="a", ttl=60)


def test_an_expired_lease_is_free_and_a_renewed_one_is_not(saver):
    saver.acquire_lease("t", owner="a", ttl=0.05)
    saver.acquire_lease("kept", owner="a", ttl=0.05)
    renewed = saver.renew_lease("kept", owner="a", ttl=60)
    time.sleep(0.1)

    assert saver.leases() == [saver.lease_of("kept")]
    assert saver.lease_of("kept").expires == renewed.expires
    with pytest.raises(LeaseHeld):
        saver.acquire_lease("kept", owner="b", ttl=60)
    saver.acquire_lease("t", owner="b", ttl=60)
    with pytest.raises(LeaseLost):
        saver.renew_lease("t", owner="a", ttl=60)


def test_an_expired_lease_nobody_took_can_be_renewed(saver):
    saver.acquire_lease("t", owner="a", ttl=0.01)
    time.sleep(0.05)
    saver.renew_lease("t", owner="a", ttl=60)
    assert saver.lease_of("t").owner == "a"


async def test_the_async_names_do_the_same(saver):
    lease = await saver.aacquire_lease("t", owner="a", ttl=60)
    with pytest.raises(LeaseHeld):
        await saver.aacquire_lease("t", owner="b", ttl=60)
    assert (await saver.arenew_lease("t", owner="a", ttl=90)).expires > lease.expires
    assert (await saver.alease_of("t")).owner == "a"
    assert len(await saver.aleases()) == 1
    await saver.arelease_lease("t", owner="a")
    assert await saver.alease_of("t") is None


async def test_a_refused_lease_disturbs_no_other_caller(saver, kit):
    import asyncio

    saver.acquire_lease("t", owner="a", ttl=60)
    config = kit.put(saver)
    ended = await asyncio.gather(
        *(saver.aput_writes(config, [("c", i)], f"a{i}") for i in range(10)),
        saver.aacquire_lease("t", owner="b", ttl=60),
        *(saver.aput_writes(config, [("c", i)], f"b{i}") for i in range(10)),
        return_exceptions=True,
    )
    assert [type(end) for end in ended if end is not None] == [LeaseHeld]
    assert len(saver.get_tuple(config).pending_writes) == 20


def test_two_runs_of_this_process_keep_each_other_out(saver):
    first, second = process_owner(), process_owner()
    host, pid, started, unique = first.rsplit(":", 3)
    assert host
    assert int(pid) == os.getpid()
    assert started
    assert len(unique) == 36
    saver.acquire_lease("t", owner=first, ttl=60)
    with pytest.raises(LeaseHeld):
        saver.acquire_lease("t", owner=second, ttl=60)


HOLDS_IT = """
import sys, time
from checkpoints import SQLAlchemySaver, process_owner
saver = SQLAlchemySaver(sys.argv[1])
saver.acquire_lease("t", owner=process_owner(), ttl=3600)
print("held", flush=True)
time.sleep(60)
"""


def test_the_lease_of_a_killed_process_is_free_at_once(url):
    with SQLAlchemySaver(url) as saver:
        holder = subprocess.Popen([sys.executable, "-c", HOLDS_IT, url], stdout=subprocess.PIPE)
        try:
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(LeaseHeld):
                saver.acquire_lease("t", owner="me", ttl=60)
            assert int(saver.lease_of("t").owner.rsplit(":", 3)[1]) == holder.pid
            holder.send_signal(signal.SIGKILL)
            deadline = time.monotonic() + 5
            while saver.lease_of("t") is not None:  # nobody has waited for it: it stays on as a zombie
                assert time.monotonic() < deadline
            saver.acquire_lease("t", owner="me", ttl=60)
        finally:
            holder.kill()
            holder.communicate()


@pytest.mark.parametrize(
    ("owner", "dead"),
    [
        ("{host}:{pid}:{started}:u", False),
        ("{host}:{pid}:1:u", True),  # the pid is another process's now
        ("{host}:4194305:1:u", True),  # above the highest pid
        ("elsewhere:4194305:1:u", False),
        ("{host}:4194305:1@7:u", False),  # in another container its pids are not ours to judge
        ("{host}:x:1:u", False),
        ("just a name", False),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times are read from /proc")
def test_only_a_process_known_to_be_dead_loses_its_lease(saver, owner, dead):
    host, pid, started, _ = process_owner().rsplit(":", 3)
    saver.acquire_lease("t", owner=owner.format(host=host, pid=pid, started=started), ttl=60)
    assert (saver.lease_of("t") is None) == dead


async def test_a_fenced_saver_writes_only_while_its_lease_is_in_force(saver, kit):
    config = kit.put(saver)
    mine = saver.acquire_lease("t", owner="me", ttl=0.05)
    fenced = saver.fenced(mine)
    fenced.put_writes(config, [("c", 1)], "first")
    time.sleep(0.1)
    fenced.put_writes(config, [("c", 2)], "late, but nobody took it")
    theirs = saver.acquire_lease("t", owner="them", ttl=60)

    with pytest.raises(Fenced, match="me no longer holds the lease on thread 't'"):
        fenced.put_writes(config, [("c", 3)], "too late")
    with pytest.raises(Fenced):
        await fenced.aput(config, kit.checkpoint(saver, {"c": 1}), {"step": 9}, {"c": "1"})
    other = saver.fenced(theirs)
    calls = [(fenced if i % 2 else other).aput_writes(config, [("c", i)], f"mixed {i}") for i in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)

    assert [isinstance(end, Fenced) for end in ended] == [False, True] * 10
    found = saver.get_tuple(kit.config())
    assert sorted(task for task, _, _ in found.pending_writes) == sorted(
        ["first", "late, but nobody took it", *(f"mixed {i}" for i in range(0, 20, 2))]
    )


def test_epochs_count_owners_even_after_a_release(saver):
    first = saver.acquire_lease("t", owner="me", ttl=60)
    assert saver.acquire_lease("t", owner="me", ttl=60).epoch == first.epoch == 1
    assert saver.renew_lease("t", owner="me", ttl=60).epoch == 1
    saver.release_lease("t", owner="me")
    assert saver.lease_of("t") is None
    assert saver.acquire_lease("t", owner="me", ttl=60).epoch == 2
    with pytest.raises(Fenced):
        saver.fenced(first).put_writes({"configurable": {"thread_id": "t", "checkpoint_id": "1"}}, [("c", 1)], "x")


def test_one_of_many_that_ask_at_once_gets_a_thread(url):
    with SQLAlchemySaver(url) as one, SQLAlchemySaver(url) as other:
        for name in range(12):

            def ask(number, name=name):
                try:
                    return (one, other)[number % 2].acquire_lease(f"t{name}", owner=f"{number}", ttl=60)
                except LeaseHeld:
                    return None

            with ThreadPoolExecutor(6) as pool:
                assert sum(lease is not None for lease in pool.map(ask, range(6))) == 1
