"""A database server that goes away under load and comes back: its callers notice nothing but the delay.

Threads and coroutines write and read through one saver while PostgreSQL is restarted (SIGINT) or crashes (SIGKILL),
MariaDB crashes, or sessions are cut one by one. No call hangs and none fails, what was acknowledged is there once the
server is back, and nothing is half there. If the server stays away, calls end with `DatabaseBusy` or `ReadFailed` when
the saver's timeout is over, and the same saver works again as soon as the server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP, empty_checkpoint
from sqlalchemy import create_engine, text

from checkpoints import DatabaseBusy, ReadFailed, SQLAlchemySaver
from checkpoints.dialects import open_dialect
from tests import servers

THREADS, COROUTINES = 3, 6


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[servers.Server]:
    with servers.own_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def own_mariadb() -> Iterator[servers.Server]:
    with servers.own_mariadb() as server:
        yield server


def url_of(server: servers.Server) -> str:
    name = server.url.drivername.partition("+")[0]
    return server.url.set(drivername=name).render_as_string(hide_password=False)


def come_back(server: servers.Server) -> None:
    """Start it; PostgreSQL refuses until the last session of the crashed server is gone."""
    for _ in range(100):
        try:
            server.start()
        except RuntimeError as error:
            if "pre-existing shared memory" not in str(error) and "lock file" not in str(error):
                raise
            time.sleep(0.1)
        else:
            return
    raise AssertionError("it does not come back")


class Load:
    """Callers of one saver, and what was acknowledged to them."""

    def __init__(self, saver: SQLAlchemySaver) -> None:
        self.saver = saver
        self.name = uuid.uuid4().hex[:8]
        self.acknowledged: Counter[str] = Counter()
        self.reads = 0
        self.slowest = 0.0
        self.errors: list[BaseException] = []
        self.ended = threading.Event()
        self._threads = [threading.Thread(target=self._caller, args=(f"t{i}",), daemon=True) for i in range(THREADS)]
        self._threads.append(threading.Thread(target=lambda: asyncio.run(self._coroutines()), daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until(lambda: len(self.acknowledged) == THREADS + COROUTINES)
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        self.ended.set()
        deadline = time.monotonic() + 40
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def until(self, happens: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < deadline, f"callers wait: {self.acknowledged}, {self.errors}"
            time.sleep(0.005)

    def goes_on(self) -> None:
        """Every caller has been answered again."""
        seen = Counter(self.acknowledged)
        self.until(lambda: self.errors != [] or all(self.acknowledged[who] > seen[who] + 1 for who in seen))

    def _config(self, who: str) -> Any:
        return {"configurable": {"thread_id": f"{self.name}-{who}", "checkpoint_ns": ""}}

    @staticmethod
    def _next(values: list[str]) -> tuple[Any, dict[str, str]]:
        checkpoint = empty_checkpoint()
        count = len(values) + 1
        values.append(f"{count} " + uuid.uuid5(uuid.NAMESPACE_OID, str(count)).hex)
        versions = {"log": f"{count:010}.000000000001"}
        checkpoint["channel_values"], checkpoint["channel_versions"] = {"log": list(values)}, dict(versions)
        return checkpoint, versions

    def _seen(self, who: str, values: list[str], found: Any) -> None:
        assert found is not None
        assert found.checkpoint["channel_values"]["log"] == values
        assert [value for _, _, value in found.pending_writes] == [len(values), "x" * 300]
        self.reads += 1
        self.acknowledged[who] = len(values)

    def _timed(self, began: float) -> None:
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _caller(self, who: str) -> None:
        config, values = self._config(who), list[str]()
        try:
            while not self.ended.is_set():
                began = time.monotonic()
                checkpoint, versions = self._next(values)
                config = self.saver.put(config, checkpoint, {"step": len(values)}, versions)
                self.saver.put_writes(config, [("c", len(values)), ("c", "x" * 300)], "task")
                self._seen(who, values, self.saver.get_tuple(self._config(who)))
                self._timed(began)
        except BaseException as error:
            self.errors.append(error)

    async def _coroutines(self) -> None:
        await asyncio.gather(*(self._coroutine(f"c{i}") for i in range(COROUTINES)))

    async def _coroutine(self, who: str) -> None:
        config, values = self._config(who), list[str]()
        try:
            while not self.ended.is_set():
                began = time.monotonic()
                checkpoint, versions = self._next(values)
                config = await self.saver.aput(config, checkpoint, {"step": len(values)}, versions)
                await self.saver.aput_writes(config, [("c", len(values)), ("c", "x" * 300)], "task")
                self._seen(who, values, await self.saver.aget_tuple(self._config(who)))
                self._timed(began)
        except BaseException as error:
            self.errors.append(error)

    def verify(self) -> None:
        assert not any(thread.is_alive() for thread in self._threads), "a caller hangs"
        assert self.errors == []
        for who, count in self.acknowledged.items():
            found = list(self.saver.list(self._config(who)))
            # The last round of a caller may be stored without the read that acknowledges it here.
            assert len(found) in {count, count + 1}
            whole = [f"{number} " + uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex for number in range(1, count + 2)]
            for number, one in zip(range(len(found), 0, -1), found, strict=True):
                assert one.checkpoint["channel_values"] == {"log": whole[:number]}
                assert [value for _, _, value in one.pending_writes or []] == [number, "x" * 300]
        assert self.saver.check() == []


def goes_away_and_comes_back(server: servers.Server, how: int, times: int) -> None:
    with SQLAlchemySaver(url_of(server), timeout=20) as saver, Load(saver) as load:
        for _ in range(times):
            server.stop(how)
            time.sleep(1)
            come_back(server)
            load.goes_on()
        load.finish()
        load.verify()
        assert load.slowest > 1, "nobody was waiting while the server was away"
        print(f"\n{load.acknowledged.total()} rounds, the slowest took {load.slowest:.1f} s")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_postgresql_restarts_under_load(own_postgres: servers.Server, how: int) -> None:
    goes_away_and_comes_back(own_postgres, how, 1)


def test_mariadb_crashes_under_load(own_mariadb: servers.Server) -> None:
    goes_away_and_comes_back(own_mariadb, signal.SIGKILL, 1)


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_postgresql_restarts_again_and_again(own_postgres: servers.Server, how: int) -> None:
    goes_away_and_comes_back(own_postgres, how, 8)


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_mariadb_restarts_again_and_again(own_mariadb: servers.Server, how: int) -> None:
    goes_away_and_comes_back(own_mariadb, how, 8)


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
async def test_a_server_that_stays_away_is_an_error_in_time(kind: str, request: pytest.FixtureRequest) -> None:
    server: servers.Server = request.getfixturevalue(f"own_{kind}")
    config: Any = {"configurable": {"thread_id": f"away-{uuid.uuid4().hex}", "checkpoint_ns": ""}}
    with SQLAlchemySaver(url_of(server), timeout=1) as saver:
        before = saver.put(config, empty_checkpoint(), {"step": 0}, {})
        server.stop(signal.SIGKILL)
        try:
            calls = [
                asyncio.to_thread(saver.put, before, empty_checkpoint(), {"step": 1}, {}),
                saver.aput_writes(before, [("c", 1)], "lost"),
                saver.aacquire_lease("t", owner="o", ttl=1),
                asyncio.to_thread(saver.get_tuple, config),
                saver.aget_tuple(config),
                asyncio.to_thread(lambda: list(saver.list(config))),
            ]
            began = time.monotonic()
            errors: list[Any] = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
            assert 0.3 < time.monotonic() - began < 4
            assert [type(error) for error in errors] == [DatabaseBusy] * 3 + [ReadFailed] * 3
            assert all(error.__cause__ is not None for error in errors)
        finally:
            come_back(server)
        found = await saver.aget_tuple(config)
        assert found is not None
        assert found.config == before, "a call that failed was stored"
        assert found.pending_writes == []
        await saver.aput_writes(before, [("c", 2)], "found")
        found = saver.get_tuple(config)
        assert found is not None
        assert found.pending_writes == [("found", "c", 2)]


def test_sessions_are_cut_under_load(postgres_url: str) -> None:
    name = f"cut{uuid.uuid4().hex[:8]}"
    engine = create_engine(open_dialect(postgres_url)[1], isolation_level="AUTOCOMMIT")
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")
    with (
        engine.connect() as connection,
        SQLAlchemySaver(f"{postgres_url}?application_name={name}", timeout=20, prefix=f"{name}_") as saver,
        Load(saver) as load,
    ):
        gone = 0

        def enough() -> bool:
            nonlocal gone
            gone += len(connection.execute(cut, {"name": name}).all())
            time.sleep(0.04)
            return gone > 25

        load.until(enough)  # however slowly the callers come back with new sessions
        load.goes_on()
        load.finish()
        load.verify()
    engine.dispose()


class Rival:
    """A session that locks, of two rows of the saver, first the one and then the other."""

    def __init__(self, url: str, saver: SQLAlchemySaver) -> None:
        self._engine = create_engine(open_dialect(url)[1])
        self._connection = self._engine.connect()
        self._table = saver._database.schema.writes

    def prefer(self, *statements: str) -> None:
        """See to it that the database chooses the other one as the victim."""
        for statement in statements:
            self._connection.execute(text(statement))

    def change(self, config: Any, channel: str) -> None:
        key = {**config["configurable"], "task_id": "task", "idx": WRITES_IDX_MAP[channel]}
        table = self._table  # by the whole key: otherwise MariaDB locks every row that it looks at
        here = (column == key[column.name] for column in table.primary_key)
        change = table.update().where(*here).values(type=table.c.type)
        assert self._connection.execute(change).rowcount == 1

    def end(self) -> None:
        self._connection.commit()
        self._connection.close()
        self._engine.dispose()


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_the_victim_of_a_deadlock_tries_again(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    thread = f"deadlock-{uuid.uuid4().hex}"
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    first, second = "__interrupt__", "__error__"  # two that a later call replaces, in the order of their keys
    with SQLAlchemySaver(url, timeout=20) as saver, contextlib.ExitStack() as stack:
        stored = saver.put(config, empty_checkpoint(), {"step": 0}, {})
        saver.put_writes(stored, [(first, "old"), (second, "old")], "task")
        met: list[str] = []
        dialect = saver._database.dialect
        is_transient = dialect.is_transient
        monkeypatch.setattr(dialect, "is_transient", lambda error: (met.append(str(error)), is_transient(error))[1])
        rival = Rival(url, saver)
        stack.callback(rival.end)
        if kind == "postgres":
            rival.prefer("SET LOCAL deadlock_timeout = '60s'")
        else:  # the session that changed fewer rows is the victim
            rival.prefer(
                "CREATE TEMPORARY TABLE heavy (i INT PRIMARY KEY) ENGINE = InnoDB",
                "INSERT INTO heavy SELECT seq FROM seq_1_to_2000",  # SEQUENCE is an engine of MariaDB's
            )
        rival.change(stored, second)
        caller = threading.Thread(
            target=saver.put_writes, args=(stored, [(first, "new"), (second, "new")], "task"), daemon=True
        )
        caller.start()
        time.sleep(0.3)  # the saver has the first row now and waits for the second
        rival.change(stored, first)  # would raise if the rival were the victim
        rival.end()
        caller.join(20)
        assert not caller.is_alive()
        assert any("deadlock" in error.lower() for error in met), met
        found = saver.get_tuple(config)
        assert found is not None
        assert sorted(found.pending_writes or []) == [("task", second, "new"), ("task", first, "new")]


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_a_session_that_holds_a_lock_does_not_hold_up_others_for_ever(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """Such as that of a process that was stopped in the middle of a fenced write."""
    url: str = request.getfixturevalue(f"{kind}_url")
    thread = f"locked-{uuid.uuid4().hex}"
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    with SQLAlchemySaver(url, timeout=1) as saver, SQLAlchemySaver(url, timeout=1) as other:
        stored = saver.put(config, empty_checkpoint(), {"step": 0}, {})
        saver.acquire_lease(thread, owner="stopped", ttl=0.1)
        leases = saver._database.schema.leases
        engine = create_engine(open_dialect(url)[1])
        errors: list[BaseException] = []
        times: list[float] = []

        def take_over() -> None:
            began = time.monotonic()
            try:
                other.acquire_lease(thread, owner="successor", ttl=60)
            except BaseException as error:
                errors.append(error)
            times.append(time.monotonic() - began)

        with engine.connect() as stopped:
            stopped.execute(leases.select().where(leases.c.thread_id == thread).with_for_update(read=True))
            taking = threading.Thread(target=take_over, daemon=True)
            taking.start()
            taking.join(3)
            waits = taking.is_alive()
            stopped.rollback()
        taking.join(20)
        engine.dispose()
        assert not waits, "it still waits, and with it all that the saver was to write"
        assert [type(error) for error in errors] == [DatabaseBusy]
        assert times[0] < 3
        assert other.acquire_lease(thread, owner="successor", ttl=60).epoch == 2
        other.put_writes(stored, [("c", 1)], "task")
