"""With a key, nothing but names can be read in the database, and nothing can be moved about in it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from checkpoints import CorruptCheckpoint, Encryption, SQLAlchemySaver

KEY, OTHER = b"k" * 32, b"o" * 32
SECRET = "the-secret-" * 40


@pytest.fixture
def encrypted(url):
    with SQLAlchemySaver(url, encryption=Encryption(KEY)) as opened:
        yield opened


def fill(saver, kit, thread="t"):
    told = {"run_id": f"{SECRET}-{thread}"[-100:], "user": SECRET}
    config = kit.put(saver, {"c": [SECRET]}, config=kit.config(thread), metadata=told)
    saver.put_writes(config, [("c", SECRET)], "task")
    return config


def test_what_is_stored_tells_nothing(encrypted, kit):
    config = fill(encrypted, kit)
    with encrypted._database.engine.connect() as connection:
        for table in ("checkpoints", "values", "writes"):
            for row in connection.execute(text(f"SELECT * FROM orchestra_{table}")):
                assert b"secret" not in b"|".join(
                    value if isinstance(value, bytes) else str(value).encode() for value in row
                )

    found = encrypted.get_tuple(config)
    assert found.checkpoint["channel_values"] == {"c": [SECRET]}
    assert found.metadata["user"] == SECRET
    assert found.pending_writes == [("task", "c", SECRET)]
    assert [each.config for each in encrypted.list(None, filter={"user": SECRET})] == [config]
    assert list(encrypted.list(None, filter={"user": "another"})) == []


def test_runs_are_deleted_by_their_id_though_it_is_not_stored(encrypted, kit):
    fill(encrypted, kit, "a")
    fill(encrypted, kit, "b")
    encrypted.delete_for_runs([f"{SECRET}-a"[-100:]])

    assert [each.config["configurable"]["thread_id"] for each in encrypted.list(None)] == ["b"]


def test_copies_and_differences_are_encrypted_too(encrypted, kit):
    config, version = kit.config(), None
    for length in range(1, 40):
        version = encrypted.get_next_version(version, None)
        checkpoint = kit.checkpoint(encrypted, {"c": [SECRET] * length}, channel_versions={"c": version})
        config = encrypted.put(config, checkpoint, {"step": length}, {"c": version})
    encrypted.copy_thread("t", "copy")
    encrypted.prune(["t"])

    assert encrypted.get_tuple(kit.config()).checkpoint["channel_values"]["c"] == [SECRET] * 39
    assert len(list(encrypted.list(kit.config("copy")))) == 39
    assert encrypted.check() == []


def test_another_key_and_no_key_are_told_apart(url, encrypted, kit):
    fill(encrypted, kit)
    with (
        SQLAlchemySaver(url, encryption=Encryption(OTHER)) as wrong,
        pytest.raises(CorruptCheckpoint, match="encrypted with a key that this saver was not given"),
    ):
        wrong.get_tuple(kit.config())
    with SQLAlchemySaver(url) as plain, pytest.raises(CorruptCheckpoint, match="open the saver with encryption="):
        plain.get_tuple(kit.config())


def test_keys_can_be_replaced(url, encrypted, kit):
    fill(encrypted, kit, "old")
    with SQLAlchemySaver(url, encryption=Encryption(OTHER, KEY)) as saver:
        fill(saver, kit, "new")
        assert saver.get_tuple(kit.config("old")).metadata["user"] == SECRET
        saver.delete_for_runs([f"{SECRET}-old"[-100:]])
        assert saver.get_tuple(kit.config("old")) is None
    with pytest.raises(CorruptCheckpoint):
        encrypted.get_tuple(kit.config("new"))


def test_plaintext_is_refused_unless_it_is_asked_for(url, encrypted, kit):
    with SQLAlchemySaver(url) as plain:
        fill(plain, kit)
    with pytest.raises(CorruptCheckpoint, match="not encrypted"):
        encrypted.get_tuple(kit.config())
    with SQLAlchemySaver(url, encryption=Encryption(KEY, accept_plaintext=True)) as saver:
        assert saver.get_tuple(kit.config()).metadata["user"] == SECRET


@pytest.mark.parametrize("table", ["checkpoints", "values", "writes"])
def test_a_value_that_was_moved_to_another_thread_does_not_decrypt(encrypted, kit, table):
    fill(encrypted, kit, "mine")
    blob = "body" if table == "checkpoints" else "value"
    checkpoint = kit.checkpoint(encrypted, {"c": ["harmless " * 60]}, id="1", channel_versions={"c": "1"})
    encrypted.put(kit.config("theirs"), checkpoint, {"step": 0}, {"c": "1"})
    encrypted.put_writes(kit.config("theirs", checkpoint_id="1"), [("c", "harmless")], "task")
    with encrypted._database.engine.begin() as connection:
        (stolen,) = connection.execute(text(f"SELECT {blob} FROM orchestra_{table} WHERE thread_id = 'mine'")).one()
        connection.execute(
            text(f"UPDATE orchestra_{table} SET {blob} = :stolen WHERE thread_id = 'theirs'"), {"stolen": stolen}
        )
    with pytest.raises(CorruptCheckpoint, match="thread 'theirs'"):
        encrypted.get_tuple(kit.config("theirs"))


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 32 bytes, this one has 5"):
        Encryption(b"short")


def test_the_key_is_not_shown(encrypted):
    assert "kkk" not in repr(encrypted) + repr(Encryption(KEY))
