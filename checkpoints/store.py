"""The store: LangGraph's memory across threads, sync and async, in the same databases as the checkpoints."""

from __future__ import annotations

import json
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, PutOp, SearchOp

from checkpoints.codec import is_json
from checkpoints.database import Database, Options
from checkpoints.items import Items, Put, encode, place
from checkpoints.saver import SQLAlchemySaver

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from langgraph.store.base import IndexConfig, Op, Result, TTLConfig
    from sqlalchemy import URL, Connection

    from checkpoints.database import Step
    from checkpoints.dialects import Synchronous
    from checkpoints.encryption import Encryption
    from checkpoints.items import Place

_MINUTE = 60_000  # milliseconds
_LONGEST = 1 << 52  # milliseconds: beyond any date, and with the time of day added still a whole number everywhere
_SWEPT_AT_ONCE = 1000  # items in one transaction
_MAX_QUEUED = 5000


class SQLAlchemyStore(BaseStore):
    """A LangGraph store in SQLite, PostgreSQL, MariaDB or MySQL: ``graph.compile(store=...)``.

    Sync and async methods are two faces of the same code and may be used at once, from any number of threads and
    event loops. A method that writes returns when all of its batch is committed; of a batch that fails, nothing is.
    The operations of one batch see what was stored before it, and of several that put or delete the same item the
    last one counts.

    Values are objects that JSON can hold, and come back as JSON gives them: a tuple as a list, each time as a new
    object. Keys and namespaces are compared character by character, and may hold any. A search finds the items that
    were put last first (and those of the same millisecond by namespace and key); there is no vector search, and so
    ``index`` in ``put`` has no effect. An item that is put again keeps its ``created_at``.

    A time to live (``ttl``, in minutes) counts from the last put, get or search that had the item; such a read
    therefore writes, unless ``refresh_ttl`` (or ``refresh_on_read``) is False. An item whose time is over is gone
    for all methods at once; `sweep` deletes what is left of it. The clock is the process's: keep the clocks of
    machines that share a database together.

    Args:
        database: An SQLAlchemy URL as for `SQLAlchemySaver`; or a saver, whose database, tables' prefix, schema,
            encryption and threads are then used, and whose owner closes it.
        ttl: ``default_ttl`` is for items put without one; ``refresh_on_read`` (True) is for reads that do not say;
            with ``sweep_interval_minutes``, a batch that puts something also sweeps if none of this store's did for
            that long. ``omit_expired`` is always so.
        index: There is none; see Raises.
        prefix: What the names of the tables begin with.
        schema: The schema they are in (in MySQL and MariaDB: the database), made if it is not there.
        encryption: Keys to encrypt values with. Namespaces and keys are not encrypted.
        synchronous: SQLite only: ``"FULL"`` survives a power cut, ``"NORMAL"`` a crash of the process only.
        timeout: Seconds to keep trying while the database is locked, restarting or out of reach.

    Raises:
        NotImplementedError: An ``index`` is given.
        UnsupportedDatabase: The URL names a database or driver that can't be used.
        ValueError: The prefix or schema can't be part of a name; a time is not more than nothing; or options of the
            database are given together with a saver, which has its own.
    """

    supports_ttl = True

    def __init__(
        self,
        database: str | URL | SQLAlchemySaver,
        *,
        ttl: TTLConfig | None = None,
        index: IndexConfig | None = None,
        prefix: str = "orchestra_",
        schema: str | None = None,
        encryption: Encryption | None = None,
        synchronous: Synchronous = "FULL",
        timeout: float = 10.0,
    ) -> None:
        if index is not None:
            raise NotImplementedError(
                "SQLAlchemyStore has no vector search: leave out index=, and find items by namespace and filter; "
                "for a search by meaning use langgraph.store.postgres.PostgresStore or another store that has it"
            )
        self.ttl_config = None if ttl is None else ttl.copy()
        config = self.ttl_config or {}
        _milliseconds(config.get("default_ttl"), "default_ttl")
        interval = _milliseconds(config.get("sweep_interval_minutes"), "sweep_interval_minutes")
        self._sweep_every = None if interval is None else interval / 1000
        self._next_sweep = time.monotonic() + (self._sweep_every or 0.0)
        self._owned = not isinstance(database, SQLAlchemySaver)
        if isinstance(database, SQLAlchemySaver):
            if (prefix, schema, encryption, synchronous, timeout) != ("orchestra_", None, None, "FULL", 10.0):
                raise ValueError(
                    "the store uses the saver's database as the saver opened it: give prefix, schema, encryption, "
                    "synchronous and timeout to the saver, or open the store with a URL"
                )
            self._database = database._database  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - same package
        else:
            self._database = Database(
                database,
                Options(
                    prefix=prefix,
                    schema=schema,
                    encryption=encryption,
                    synchronous=synchronous,
                    timeout=timeout,
                    max_queued=_MAX_QUEUED,
                    memory=0,  # that is for channel values
                ),
            )
        self._items = Items(self._database.schema, self._database.sealer)

    def close(self) -> None:
        """Commit all that is queued and close the database, unless it is a saver's."""
        if self._owned:
            self._database.close()

    async def aclose(self) -> None:
        """`close` without blocking the event loop."""
        if self._owned:
            await self._database.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._database.place!r})"

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several things at once; ``get``, ``put``, ``search``, ``delete`` and ``list_namespaces`` do one each.

        Args:
            ops: What to do.

        Returns:
            The result of each, in their order; None for one that puts or deletes.

        Raises:
            CorruptItem: An item is not as it was stored.
            InvalidKey: A namespace or key is too long, or not made of Unicode text.
            NotImplementedError: A search has a ``query``.
            ReadFailed: The database could not be read.
            SaverClosed: The store is closed.
            TypeError: A value is not an object that JSON can hold.
            ValueError: A limit, an offset, a depth, a time to live or a filter makes no sense.
            WriteFailed: The batch, or that items were used, could not be committed.
        """
        return self._database.run(self._batch(ops))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch` without blocking the event loop. Of what a cancelled call puts, all is stored or nothing."""
        return await self._database.arun(self._batch(ops))

    def sweep(self) -> int:
        """Delete the items that have expired, which no method finds any more; return how many they were."""
        return self._database.run(self._sweep())

    async def asweep(self) -> int:
        """`sweep` without blocking the event loop."""
        return await self._database.arun(self._sweep())

    # Each of these is written once, as steps, and driven by either face.

    def _batch(self, ops: Iterable[Op]) -> Generator[Step, Any, list[Result]]:
        batch = _Batch(self._items, list(ops))
        results: list[Result] = [None] * len(batch.ops)
        used: set[Place] = set()
        if batch.reads:
            results, used = yield "snapshot", batch.read
        if used or batch.puts:
            yield "write", partial(batch.write, used, sweep=bool(batch.puts) and self._is_time_to_sweep())
        return results

    def _sweep(self) -> Generator[Step, Any, int]:
        now = _now()
        deleted = 0
        while count := (yield "write", partial(self._items.sweep, limit=_SWEPT_AT_ONCE, now=now)):
            deleted += count
        return deleted

    def _is_time_to_sweep(self) -> bool:
        if self._sweep_every is None or time.monotonic() < self._next_sweep:
            return False
        self._next_sweep = time.monotonic() + self._sweep_every
        return True


class _Batch:
    """One batch, checked and made ready: whatever is wrong with it is said before anything is done.

    Attributes:
        ops: The operations.
        reads: Whether any of them has a result.
        puts: What to store at each place; None to delete what is there.
    """

    def __init__(self, items: Items, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.reads = False
        self.puts: dict[Place, Put | None] = {}
        self._items = items
        self._now = _now()
        self._places: dict[int, Place] = {}
        for number, op in enumerate(ops):
            self.reads |= not isinstance(op, PutOp)
            match op:
                case GetOp():
                    self._places[number] = place(op.namespace, op.key)
                case SearchOp():
                    _check_search(op)
                case ListNamespacesOp():
                    _check_listing(op)
                case PutOp():
                    self.puts[place(op.namespace, op.key)] = None if op.value is None else _put(op)
                case _:
                    raise ValueError(f"{op!r} is not an operation of a store")

    def read(self, connection: Connection) -> tuple[list[Result], set[Place]]:
        """The results, and the items whose time begins anew."""
        rows = self._items.rows(connection, self._places.values(), self._now)
        results: list[Result] = []
        used: set[Place] = set()
        for number, op in enumerate(self.ops):
            result: Result = None
            match op:
                case GetOp():
                    where = self._places[number]
                    if where in rows:
                        result = self._items.item(rows[where])
                        if op.refresh_ttl and rows[where].ttl is not None:
                            used.add(where)
                case SearchOp():
                    found = self._items.search(connection, op, self._now)
                    result = [item for _, item in found]
                    if op.refresh_ttl:
                        used |= {(row.namespace, row.item_key) for row, _ in found if row.ttl is not None}
                case ListNamespacesOp():
                    result = self._items.namespaces(connection, op, self._now)
                case _:
                    pass
            results.append(result)
        return results, used

    def write(self, used: set[Place], connection: Connection, *, sweep: bool) -> None:
        """Store, delete, and note which items were used."""
        self._items.refresh(connection, used - self.puts.keys(), self._now)
        self._items.delete(connection, [where for where, put in self.puts.items() if put is None])
        puts = {where: put for where, put in self.puts.items() if put is not None}
        self._items.put(connection, puts, self._now)
        if sweep:
            self._items.sweep(connection, _SWEPT_AT_ONCE, self._now)


def _put(op: PutOp) -> Put:
    what = f"item {op.key!r} in namespace {op.namespace!r}"
    return Put(_dump(op.value, what), _milliseconds(op.ttl, f"ttl of {what}"))


def _dump(given: Any, what: str) -> bytes:
    """A value as JSON.

    Raises:
        TypeError: JSON can't hold it, or would give it back as something else.
    """
    try:
        value = dict(given)
        odd = next((name for name, part in value.items() if not is_json({name: part})), None)
        if odd is None:
            return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:  # no object, a number too long, a circle
        raise TypeError(f"{what}: its value can't be stored as JSON ({error})") from error
    raise TypeError(
        f"{what}: JSON can't hold what its value has under {odd!r}: use str, int, finite float, bool, None, "
        "and lists and dicts with str keys of these"
    )


def _check_search(op: SearchOp) -> None:
    if op.query:
        raise NotImplementedError(
            "SQLAlchemyStore has no vector search: leave out query=, and search by namespace and filter; "
            "for a search by meaning use langgraph.store.postgres.PostgresStore or another store that has it"
        )
    _check_not_negative(limit=op.limit, offset=op.offset)
    encode(op.namespace_prefix)


def _check_listing(op: ListNamespacesOp) -> None:
    _check_not_negative(limit=op.limit, offset=op.offset, max_depth=op.max_depth or 0)
    for condition in op.match_conditions or ():
        if condition.match_type not in {"prefix", "suffix"}:
            raise ValueError(f"match_type {condition.match_type!r}: use 'prefix' or 'suffix'")
        encode(condition.path)


def _check_not_negative(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name}={number}: it can't be negative")


def _milliseconds(minutes: float | None, what: str) -> int | None:
    """A time as it is stored: at least one millisecond, so that nothing expires before it is there."""
    if minutes is None:
        return None
    if not 0 < minutes < _LONGEST / _MINUTE:
        raise ValueError(f"{what} is {minutes!r} minutes: it must be more than 0, or None to keep it")
    return math.ceil(minutes * _MINUTE)


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
