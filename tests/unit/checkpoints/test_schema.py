from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import make_url, text

from checkpoints import ReadFailed, SchemaTooNew, SchemaTooOld, SQLAlchemySaver, UnsupportedDatabase, WriteFailed
from checkpoints.schema import MIGRATIONS


def tables(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_opening_touches_nothing_and_the_first_use_creates(url, path, kit):
    with SQLAlchemySaver(url) as saver:
        assert not path.exists()
        assert saver.get_tuple(kit.config()) is None
    names = ("version", "checkpoints", "values", "writes", "leases", "items")
    assert tables(path) == {f"orchestra_{name}" for name in names}


def test_tables_under_another_prefix_live_beside_others(url, path, kit):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE checkpoints (thread_id TEXT)")
    with SQLAlchemySaver(url) as one, SQLAlchemySaver(url, prefix="app_") as other:
        kit.put(one, {"c": 1})
        kit.put(other, {"c": 2})
        assert one.get_tuple(kit.config()).checkpoint["channel_values"] == {"c": 1}
        assert other.get_tuple(kit.config()).checkpoint["channel_values"] == {"c": 2}
    assert {"checkpoints", "orchestra_checkpoints", "app_checkpoints"} <= tables(path)


@pytest.mark.parametrize("prefix", ["", "1a", "a-b", "a b", 'a"', "a" * 40])
def test_a_prefix_that_is_no_name_is_refused(prefix):
    with pytest.raises(ValueError, match="table prefix"):
        SQLAlchemySaver("sqlite://", prefix=prefix)


async def test_a_newer_schema_is_refused(url, path, kit):
    with SQLAlchemySaver(url) as saver:
        kit.put(saver)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE orchestra_version SET version = 99")
    with SQLAlchemySaver(url) as saver:
        for _ in range(2):
            with pytest.raises(SchemaTooNew, match=r"has version 99.*upgrade the package"):
                saver.get_tuple(kit.config())
            with pytest.raises(SchemaTooNew):
                kit.put(saver)
            with pytest.raises(SchemaTooNew):
                await saver.aget_tuple(kit.config())


USES_IT = """
import sys
from checkpoints import SQLAlchemySaver
from langgraph.checkpoint.base import empty_checkpoint
with SQLAlchemySaver(sys.argv[1]) as saver:
    print("ready", flush=True)
    sys.stdin.readline()
    for step in range(20):
        config = {"configurable": {"thread_id": sys.argv[2], "checkpoint_ns": ""}}
        saver.put(config, empty_checkpoint(), {"step": step}, {})
"""


def test_processes_that_create_and_write_at_once(url, kit):
    processes = [
        subprocess.Popen([sys.executable, "-c", USES_IT, url, f"t{i}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for i in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=20)
        assert process.returncode == 0

    with SQLAlchemySaver(url) as saver:
        for i in range(3):
            assert len(list(saver.list(kit.config(f"t{i}")))) == 20


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("oracle://h/db", "not a database this package knows: use 'sqlite:///runs.db', 'postgresql://"),
        ("sqlite+aiosqlite:///x.db", "the driver 'aiosqlite' is not supported: leave it out"),
        ("postgresql+asyncpg://h/db", "the driver 'asyncpg' is not supported: leave it out, and 'psycopg' is used"),
        ("runs.db", "not the URL of a database; for a file next to you, use 'sqlite:///runs.db'"),
    ],
)
def test_another_database_is_refused_with_the_remedy(url, said):
    with pytest.raises(UnsupportedDatabase, match=re.escape(said)):
        SQLAlchemySaver(url)


@pytest.mark.parametrize(
    ("module", "url", "extra"), [("psycopg", "postgresql://h/db", "postgres"), ("pymysql", "mariadb://h/db", "mysql")]
)
def test_a_driver_that_is_not_installed_is_named(module, url, extra):
    program = f"""
import sys
sys.modules[{module!r}] = None
from checkpoints import SQLAlchemySaver
SQLAlchemySaver({url!r})
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert f"pip install 'orchestra-engine[{extra}]'" in ended.stderr


def test_a_password_is_never_shown():
    with SQLAlchemySaver("postgresql://u:secret@127.0.0.1:1/db", timeout=0.2) as saver:
        assert "secret" not in repr(saver)
        with pytest.raises(ReadFailed, match="u:\\*\\*\\*@") as failed:
            saver.get_tuple({"configurable": {"thread_id": "t"}})
        assert "secret" not in str(failed.value)


@pytest.mark.parametrize("url", ["sqlite://", ":memory:", "sqlite:///:memory:", make_url("sqlite://")])
async def test_a_database_in_memory_is_shared_by_all_methods(url, kit):
    async with SQLAlchemySaver(url) as saver:
        config = kit.put(saver, {"c": 1})
        for found in saver.list(None):
            await saver.aput_writes(found.config, [("c", 2)], "task")
        assert (await saver.aget_tuple(config)).pending_writes == [("task", "c", 2)]


def test_the_log_and_the_flush_are_what_was_asked_for(url, path, kit):
    with SQLAlchemySaver(url) as saver:
        kit.put(saver)
        assert path.with_name("runs.db-wal").exists()
        with saver._database.engine.connect() as connection:  # nothing public tells the flush mode
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    with SQLAlchemySaver(url, synchronous="NORMAL") as saver, saver._database.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


async def test_a_place_that_cannot_be_opened_is_named(tmp_path, kit):
    with SQLAlchemySaver(f"sqlite:///{tmp_path}/nowhere/runs.db") as saver:
        with pytest.raises(ReadFailed, match=r"nowhere/runs\.db: OperationalError: unable to open"):
            await saver.aget_tuple(kit.config())
        with pytest.raises(WriteFailed, match=r"nowhere/runs\.db: OperationalError: unable to open"):
            kit.put(saver)


def test_a_file_that_is_no_database_is_named(url, path, kit):
    path.write_text("something else " * 100)
    with SQLAlchemySaver(url) as saver:
        with pytest.raises(ReadFailed, match="file is not a database"):
            saver.get_tuple(kit.config())
        with pytest.raises(WriteFailed, match="file is not a database"):
            kit.put(saver)


def older(url, kit, monkeypatch):
    """Threads in tables of version 1, as an artificial older package made them: leases without an epoch."""
    with SQLAlchemySaver(url, prefix="older_") as saver:
        for thread in ("a", "b"):
            saver.put_writes(kit.put(saver, {"c": [thread] * 50}, config=kit.config(thread)), [("c", 1)], "task")
        saver.acquire_lease("a", owner="me", ttl=60)
        with saver._database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE older_leases DROP COLUMN epoch"))
            connection.execute(text("UPDATE older_version SET version = 1"))

    def upgrade(connection, schema):
        connection.execute(text(f"ALTER TABLE {schema.prefix}leases ADD COLUMN epoch BIGINT NOT NULL DEFAULT 1"))

    monkeypatch.setitem(MIGRATIONS, 1, upgrade)


def test_an_older_schema_is_refused_until_it_is_upgraded(url, kit, monkeypatch):
    older(url, kit, monkeypatch)
    with SQLAlchemySaver(url, prefix="older_") as saver:
        with pytest.raises(SchemaTooOld, match=r"has version 1 .* needs 2: .* orchestra db upgrade"):
            saver.get_tuple(kit.config("a"))
        with pytest.raises(SchemaTooOld):
            kit.put(saver, config=kit.config("a"))
        assert saver.schema_version() == 1

        assert saver.upgrade() == (1, 2)
        assert saver.upgrade() == (2, 2)

        for thread in ("a", "b"):  # each goes on where it was
            found = saver.get_tuple(kit.config(thread))
            assert found.checkpoint["channel_values"] == {"c": [thread] * 50}
            assert found.pending_writes == [("task", "c", 1)]
            kit.put(saver, {"c": 2}, config=found.config)
        assert saver.lease_of("a").epoch == 1
        assert saver.check() == []
    drop(url, "older_")


def test_many_may_upgrade_at_once(url, kit, monkeypatch):
    older(url, kit, monkeypatch)
    with ThreadPoolExecutor(6) as pool:

        def upgrade(_):
            with SQLAlchemySaver(url, prefix="older_") as saver:
                saver.upgrade()
                return saver.get_tuple(kit.config("a")).pending_writes

        assert list(pool.map(upgrade, range(6))) == [[("task", "c", 1)]] * 6
    drop(url, "older_")


def test_an_upgrade_that_fails_changes_nothing(url, kit, monkeypatch):
    older(url, kit, monkeypatch)

    def fail(connection, schema):
        raise RuntimeError("no space")

    monkeypatch.setitem(MIGRATIONS, 1, fail)
    with SQLAlchemySaver(url, prefix="older_") as saver:
        with pytest.raises(RuntimeError, match="no space"):
            saver.upgrade()
        assert saver.schema_version() == 1
    drop(url, "older_")


def test_there_must_be_a_way_to_the_version_that_is_needed(url, kit, monkeypatch):
    older(url, kit, monkeypatch)
    monkeypatch.delitem(MIGRATIONS, 1)
    with SQLAlchemySaver(url, prefix="older_") as saver, pytest.raises(SchemaTooOld, match="no way from version 1"):
        saver.upgrade()
    drop(url, "older_")


def drop(url, prefix):
    with SQLAlchemySaver(url) as saver, saver._database.engine.begin() as connection:
        for name in ("version", "checkpoints", "values", "writes", "leases", "items"):
            connection.execute(text(f"DROP TABLE {prefix}{name}"))


def test_tables_can_be_in_a_schema_of_their_own(url, kit, request):
    if url.startswith("sqlite"):
        with pytest.raises(ValueError, match="sqlite has no schemas"):
            SQLAlchemySaver(url, schema="apart")
        return
    name = f"apart_{uuid.uuid4().hex[:8]}"
    with SQLAlchemySaver(url, schema=name) as saver, SQLAlchemySaver(url) as beside:
        for length in range(1, 40):
            kit.put(saver, {"c": ["x" * 100] * length})
        assert saver.get_tuple(kit.config()).checkpoint["channel_values"] == {"c": ["x" * 100] * 39}
        saver.prune(["t"])
        saver.copy_thread("t", "copy")
        saver.release_lease(saver.acquire_lease("t", owner="me", ttl=9).thread_id, owner="me")
        assert [one.thread_id for one in saver.statistics()] in (["t", "copy"], ["copy", "t"])
        assert saver.check() == []
        assert beside.get_tuple(kit.config()) is None
        with saver._database.engine.begin() as connection:
            cascade = " CASCADE" if url.startswith("postgresql") else ""
            connection.execute(text(f"DROP SCHEMA {name}{cascade}"))


@pytest.mark.parametrize("schema", ["", "a-b", "a b", "A", "a" * 64])
def test_a_schema_that_is_no_name_is_refused(schema):
    with pytest.raises(ValueError, match="schema"):
        SQLAlchemySaver("postgresql://h/db", schema=schema)
