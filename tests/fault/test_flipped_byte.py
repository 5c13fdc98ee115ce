"""A byte that flips in the database: it is noticed, or makes no difference; never is wrong data returned.

In each column of each row of a real thread (values as chains of deltas, a fork, pending writes, a delta channel) one
byte or one digit is changed, or a NULL becomes a value and a value NULL. After each change every way to read must give
exactly what it gave before, or an error that names the place. Only where a column of the key was changed may the row be
missing as if it had been deleted: under its own name it is not there any more. Columns come from the tables themselves,
so one that is added is covered.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from sqlalchemy import Connection, Engine, Table, create_engine, text
from sqlalchemy.exc import DBAPIError

from checkpoints import CheckpointsError, CorruptCheckpoint, Encryption, SQLAlchemySaver
from checkpoints.dialects import open_dialect

KEY = b"k" * 32
THREAD: RunnableConfig = {"configurable": {"thread_id": "damaged", "checkpoint_ns": ""}}
STEPS = 6


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    count: int
    events: Annotated[list[str], DeltaChannel(lambda before, writes: [*before, *itertools.chain(*writes)])]


def step(state: State) -> dict[str, Any]:
    number = state["count"] + 1
    return {"count": number, "log": [f"{number} " + "x" * 150], "events": [f"event {number}"]}


def encryption(encrypted: str) -> Encryption | None:
    return Encryption(KEY) if encrypted == "encrypted" else None


def counting() -> Any:
    graph = StateGraph(State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: END if state["count"] >= STEPS else "step")
    return graph.compile()


GRAPH = counting()


def graph_of(saver: SQLAlchemySaver) -> Any:
    return GRAPH.copy({"checkpointer": saver})


def make_thread(saver: SQLAlchemySaver) -> None:
    graph = graph_of(saver)
    config: RunnableConfig = {"configurable": {"thread_id": "damaged"}, "metadata": {"run_id": "run"}}
    graph.invoke({"log": [], "count": 0, "events": []}, config)
    stored = saver.get_tuple(THREAD)
    assert stored is not None
    saver.put_writes(stored.config, [("c", {"pending": 1}), ("c", "y" * 700)], "later", "~path")
    saver.put_writes(stored.config, [("__error__", "failed")], "later", "~path")


def delta_channel(saver: SQLAlchemySaver) -> Any:
    """As LangGraph reads it: of the checkpoint that it has just read."""
    newest = saver.get_tuple(THREAD)
    if newest is None or newest.metadata["step"] != STEPS:
        return None  # another one is the newest
    history = saver.get_delta_channel_history(config=newest.config, channels=["events"])["events"]
    return history.get("seed"), list(history["writes"])


def plain(found: Any) -> Any:
    return found and (found.config, found.checkpoint, found.metadata, found.parent_config, found.pending_writes)


Reading = Callable[[SQLAlchemySaver], Any]
READINGS: dict[str, Reading] = {
    "get_tuple": lambda saver: plain(saver.get_tuple(THREAD)),
    "list": lambda saver: [plain(one) for one in saver.list(THREAD)],
    "heads": lambda saver: [plain(one) for one in saver.heads()],
    "the history": lambda saver: [
        (one.values, one.next, one.config, one.parent_config, one.metadata)
        for one in graph_of(saver).get_state_history({"configurable": {"thread_id": "damaged"}})
    ],
    "a delta channel": delta_channel,
}


SAFE = ("get_tuple", "list", "heads", "check")
REBUILT = ("the history", "a delta channel")


class Database:
    """A database with the thread in it, and a session that may change everything."""

    def __init__(self, url: str, prefix: str, encrypted: str) -> None:
        self.url, self.prefix, self.encryption = url, prefix, encryption(encrypted)
        self.is_sqlite = url.startswith("sqlite")
        with SQLAlchemySaver(url, prefix=prefix, encryption=self.encryption) as saver:
            make_thread(saver)
            self.before = {name: read(saver) for name, read in READINGS.items()}
            assert saver.check() == []
        assert len(self.before["list"]) == STEPS + 2
        self.saver = self.open()
        self.engine: Engine = create_engine(open_dialect(url)[1])
        self.connection: Connection = self.engine.connect()
        # Damage need not last: the disk is not waited for.
        if self.is_sqlite:
            self.connection.execute(text("PRAGMA synchronous = OFF"))
        if url.startswith("postgresql"):
            self.connection.execute(text("SET synchronous_commit = off"))
            self.connection.execute(text("SET session_replication_role = replica"))  # no foreign keys
        if url.startswith("mysql"):
            self.connection.execute(text("SET foreign_key_checks = 0"))
        schema = self.saver._database.schema
        self.tables: dict[str, Table] = {
            "checkpoints": schema.checkpoints,
            "values": schema.values,
            "writes": schema.writes,
            "version": schema.version,
        }

    def open(self, **options: Any) -> SQLAlchemySaver:
        """A saver that remembers nothing: what it gives is what it reads."""
        return SQLAlchemySaver(self.url, prefix=self.prefix, encryption=self.encryption, memory=0, **options)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Of a table, as the driver gives them."""
        table = self.tables[name]
        query = f"SELECT * FROM {table.name} ORDER BY {', '.join(c.name for c in table.primary_key)}"
        found = self.connection.exec_driver_sql(query)
        rows = [dict(row) for row in found.mappings()]
        self.connection.commit()
        return rows

    def change(self, name: str, row: dict[str, Any], column: str, value: Any) -> None:
        """One column of one row; the caller undoes it by the same means."""
        self._run(name, f"SET {column} = {self._given('new', row[column], value)}", row, new=value)

    def _given(self, parameter: str, before: Any, value: Any) -> str:
        as_text = self.is_sqlite and isinstance(before, str) and isinstance(value, bytes)
        return f"CAST(:{parameter} AS TEXT)" if as_text else f":{parameter}"  # text that is not UTF-8

    def delete(self, name: str, row: dict[str, Any]) -> None:
        self._run(name, None, row)

    def insert(self, name: str, row: dict[str, Any]) -> None:
        columns = ", ".join(row)
        values = ", ".join(f":{column}" for column in row)
        self.connection.execute(text(f"INSERT INTO {self.tables[name].name} ({columns}) VALUES ({values})"), row)
        self.connection.commit()

    def _run(self, name: str, change: str | None, row: dict[str, Any], **values: Any) -> None:
        key = {f"k_{column.name}": row[column.name] for column in self.tables[name].primary_key}
        where = " AND ".join(f"{name.removeprefix('k_')} = {self._given(name, '', key[name])}" for name in key)
        table = self.tables[name].name
        start = f"DELETE FROM {table}" if change is None else f"UPDATE {table} {change}"
        assert self.connection.execute(text(f"{start} WHERE {where}"), {**key, **values}).rowcount == 1
        self.connection.commit()

    @contextlib.contextmanager
    def damaged(self, name: str, row: dict[str, Any], column: str, value: Any) -> Iterator[bool]:
        """Whether the damage can be: not if there is a row with such a key, or the database checks what text is."""
        try:
            self.change(name, row, column, value)
        except DBAPIError:
            self.connection.rollback()
            yield False
            return
        try:
            yield True
        finally:
            self.change(name, {**row, column: value}, column, row[column])

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()
        self.saver.close()


@pytest.fixture(params=["sqlite", "postgres", "mariadb"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["plain", "encrypted"], scope="module")
def database(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder: Path = tmp_path_factory.mktemp("flipped")
    url = f"sqlite:///{folder / 'runs.db'}" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    made = Database(url, f"flip{uuid.uuid4().hex[:8]}_", request.param)
    yield made
    made.close()


def flips(value: Any, column: Any, positions: int) -> Iterator[Any]:
    """The value with the smallest damage there can be, at some places."""
    match value:
        case None:
            yield "x"
            return
        case bytes():
            places = sorted({len(value) * i // positions for i in range(positions)} | {len(value) - 1}) if value else []
            for place in places:
                yield value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
            yield value[:-1] if value else b"x"
            yield value[:-1] + b"\xe4"  # in a key of MariaDB's, which is bytes there: not UTF-8
        case str():
            places = sorted({len(value) * i // positions for i in range(positions)} | {len(value) - 1}) if value else []
            for place in places:
                yield value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
            yield value[:-1] if value else "x"
            yield value.encode()[:-1] + b"\xe4"
        case int():
            yield value + 1
            yield value ^ 64
    if column.nullable:
        yield None


def names_the_place(error: CheckpointsError) -> bool:
    return "damaged" in str(error) or "flip" in str(error) or "runs.db" in str(error) or "orchestra_test" in str(error)


def without(whole: Any, part: Any, table: str) -> bool:
    """Whether a reading gave what it would give if a row of this table had been deleted: nothing else is different."""
    if isinstance(whole, list) and isinstance(part, list):
        rest = iter(whole)
        return all(any(without(one, each, table) for one in rest) for each in part)
    if isinstance(whole, tuple) and isinstance(part, tuple) and len(whole) == len(part):
        return all(without(one, each, table) for one, each in zip(whole, part, strict=True))
    if table == "writes" and isinstance(whole, dict) and isinstance(part, dict) and whole.keys() == part.keys():
        # How many writes there were is told nowhere: a value that is rebuilt from them is without this one too.
        return all(without(whole[name], part[name], table) for name in whole)
    return whole == part


def wrong(
    database: Database, saver: SQLAlchemySaver, table: str, *, is_key: bool, readings: Iterable[str] = READINGS
) -> Iterator[tuple[str, str]]:
    """What no reading may do."""
    noticed = False
    for name in readings:
        try:
            found = READINGS[name](saver)
        except CheckpointsError as error:
            noticed = True
            if not names_the_place(error):
                yield name, f"the error does not name the place: {error}"
        except Exception as error:
            yield name, f"{type(error).__name__}: {error}"
        else:
            if found == database.before[name]:
                continue
            as_if_deleted = (
                found is None
                or without(database.before[name], found, table)
                or (name in {"get_tuple", "heads"} and an_older_one(database.before["list"], found, table))
            )
            if not is_key or not as_if_deleted:
                yield name, "wrong data"
    try:
        problems = saver.check()
    except CheckpointsError as error:
        if not names_the_place(error):
            yield "check", f"the error does not name the place: {error}"
    except Exception as error:
        yield "check", f"{type(error).__name__}: {error}"
    else:
        if noticed and not problems:
            yield "check", "finds nothing, though reading does"


def an_older_one(everything: list[Any], found: Any, table: str) -> bool:
    candidates = found if isinstance(found, list) else [found]
    return all(any(without(one, each, table) for one in everything) for each in candidates)


def damages(database: Database, *, exhaustive: bool) -> Iterator[tuple[str, str, Any, dict[str, Any], Any]]:
    """Table, place, column, row and new value."""
    for name, table in database.tables.items():
        if name == "version":
            continue
        rows = database.rows(name)
        assert len(rows) > 3
        middle = next((row for row in rows if str_of(row.get("channel")) == "events"), rows[len(rows) // 2])
        some = (rows[1], middle, rows[-1]) if database.is_sqlite else (middle,)
        for row in rows if exhaustive else some:
            for column in table.c:
                for value in flips(row[column.name], column, 8 if exhaustive else 1):
                    if not database.is_sqlite and isinstance(row[column.name], str) and isinstance(value, bytes):
                        continue  # a server that takes text for text checks it
                    yield name, f"{name}.{column.name} {row[column.name]!r:.60} -> {value!r:.60}", column, row, value


def damage_all(database: Database, *, exhaustive: bool) -> dict[str, list[str]]:
    """By reading: what it did that it may not."""
    found: dict[str, list[str]] = {name: [] for name in (*READINGS, "check", "not text")}
    # The history is many queries, and no other code where the database is a server, or what is in it is encrypted.
    with_history = exhaustive or (database.is_sqlite and database.encryption is None)
    readings = [name for name in READINGS if with_history or name != "the history"]
    tried = 0
    for table, place, column, row, value in damages(database, exhaustive=exhaustive):
        with database.damaged(table, row, column.name, value) as is_done:
            tried += is_done
            for reading, what in wrong(database, database.saver, table, is_key=column.primary_key, readings=readings):
                not_text = column.name not in {"body", "value"} and isinstance(value, bytes) and value.endswith(b"\xe4")
                found["not text" if not_text and reading in SAFE else reading].append(f"{place}: {reading}: {what}")
    assert [read(database.saver) for read in READINGS.values()] == list(database.before.values())
    assert database.saver.check() == []
    assert tried > 70
    print(f"\n{tried} damages")
    return found


def tell(wrongs: list[str]) -> str:
    return f"{len(wrongs)}:\n" + "\n".join(wrongs[:50])


@pytest.fixture(scope="module")
def some(database: Database) -> dict[str, list[str]]:
    return damage_all(database, exhaustive=False)


@pytest.fixture(scope="module")
def exhaustive(database: Database) -> dict[str, list[str]]:
    return damage_all(database, exhaustive=True)


def test_a_flipped_byte_is_noticed(some: dict[str, list[str]]) -> None:
    wrongs = [each for reading in SAFE for each in some[reading]]
    assert not wrongs, tell(wrongs)


def test_a_flipped_byte_is_noticed_where_values_are_rebuilt(some: dict[str, list[str]]) -> None:
    wrongs = [each for reading in REBUILT for each in some[reading]]
    assert not wrongs, tell(wrongs)


def test_text_that_is_no_text_is_noticed(some: dict[str, list[str]]) -> None:
    assert not some["not text"], tell(some["not text"])


@pytest.mark.long
def test_every_flipped_byte_is_noticed(exhaustive: dict[str, list[str]]) -> None:
    wrongs = [each for reading in SAFE for each in exhaustive[reading]]
    assert not wrongs, tell(wrongs)


@pytest.mark.long
def test_every_flipped_byte_is_noticed_where_values_are_rebuilt(exhaustive: dict[str, list[str]]) -> None:
    wrongs = [each for reading in REBUILT for each in exhaustive[reading]]
    assert not wrongs, tell(wrongs)


def test_a_filter_passes_over_damaged_metadata_or_names_it(database: Database) -> None:
    """What the database compares as text does not match any more; what it can't compare is read, and checked."""
    row = database.rows("checkpoints")[-1]
    others = database.before["list"][1:]
    flipped = row["metadata"].replace("loop", "lopp") if database.encryption is None else "[]"
    with database.damaged("checkpoints", row, "metadata", flipped):
        if database.encryption is None:
            found = [plain(one) for one in database.saver.list(THREAD, filter={"source": "loop"})]
            assert found == [one for one in others if one[2]["source"] == "loop"]
        else:
            with pytest.raises(CorruptCheckpoint):
                list(database.saver.list(THREAD, filter={"source": "loop"}))


def test_a_changed_version_is_an_error_or_nothing(database: Database) -> None:
    table = database.tables["version"]
    (row,) = database.rows("version")
    for column in table.c:
        for value in flips(row[column.name], column, 1):
            with database.damaged("version", row, column.name, value), database.open() as saver:
                assert list(wrong(database, saver, "version", is_key=False)) == []


def test_a_missing_value_is_noticed(database: Database) -> None:
    for row in database.rows("values"):
        database.delete("values", row)
        with pytest.raises(CorruptCheckpoint, match="damaged"):
            list(database.saver.list(THREAD))
        assert database.saver.check() != []
        database.insert("values", row)
    assert database.saver.check() == []


def test_a_damaged_newest_checkpoint_is_passed_over(database: Database) -> None:
    newest, parent = database.before["list"][:2]
    with database.open(fall_back=True) as saver:
        for name, key, columns in (
            ("checkpoints", "checkpoint_id", ("body", "metadata", "parent_id", "checksum")),
            ("writes", "checkpoint_id", ("value", "channel")),
            ("values", "version", ("value", "size")),
        ):
            row = database.rows(name)[-1]
            if name == "values":  # one that only the newest checkpoint has
                versions = set(newest[1]["channel_versions"].items()) - set(parent[1]["channel_versions"].items())
                row = next(
                    row
                    for row in database.rows("values")
                    if (str_of(row["channel"]), str_of(row["version"])) in versions
                )
            else:
                assert str_of(row[key]) == newest[0]["configurable"]["checkpoint_id"]
            for column in columns:
                value = next(flips(row[column], database.tables[name].c[column], 1))
                with database.damaged(name, row, column, value):
                    with pytest.raises(CorruptCheckpoint):
                        database.saver.get_tuple(THREAD)
                    assert plain(saver.get_tuple(THREAD)) == parent
        assert plain(saver.get_tuple(THREAD)) == newest


def str_of(stored: Any) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored
