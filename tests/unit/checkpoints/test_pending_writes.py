from __future__ import annotations

import pytest
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME

from checkpoints import InvalidKey


def pending(saver, config):
    return saver.get_tuple(config).pending_writes


def test_writes_come_in_the_order_in_which_the_run_applied_them(saver, kit):
    config = kit.put(saver)
    saver.put_writes(config, [("c", 1), ("c", 2)], "task-z", "~a")
    saver.put_writes(config, [("c", 3)], "task-a", "~b")
    saver.put_writes(config, [("c", 4)], "task-m", "")
    saver.put_writes(config, [("c", i) for i in range(12)], "task-k", "~c")

    values = [value for _, _, value in pending(saver, config)]

    assert values == [4, 1, 2, 3, *range(12)]
    assert pending(saver, config) == next(saver.list(config)).pending_writes


def test_an_ordinary_write_stays_as_it_was_first_stored(saver, kit):
    config = kit.put(saver)
    saver.put_writes(config, [("a", 1), ("b", 2)], "task")
    saver.put_writes(config, [("a", "changed"), ("b", "changed"), ("c", 3)], "task")

    assert pending(saver, config) == [("task", "a", 1), ("task", "b", 2), ("task", "c", 3)]


@pytest.mark.parametrize("channel", [ERROR, INTERRUPT, RESUME])
def test_an_error_interrupt_or_resume_is_replaced(saver, kit, channel):
    config = kit.put(saver)
    saver.put_writes(config, [(channel, 1)], "task")
    saver.put_writes(config, [(channel, 2)], "task")

    assert pending(saver, config) == [("task", channel, 2)]


def test_a_mixed_list_replaces_nothing(saver, kit):
    config = kit.put(saver)
    saver.put_writes(config, [(RESUME, 1)], "task")
    saver.put_writes(config, [("a", 1), (RESUME, 2)], "task")

    assert pending(saver, config) == [("task", RESUME, 1), ("task", "a", 1)]


def test_writes_may_come_before_their_checkpoint(saver, kit):
    checkpoint = kit.checkpoint(saver)
    saver.put_writes(kit.config(checkpoint_id=checkpoint["id"]), [("a", 1)], "task")
    config = saver.put(kit.config(), checkpoint, {"step": 0}, {})

    assert pending(saver, config) == [("task", "a", 1)]


def test_no_writes_are_no_work(saver, kit):
    saver.put_writes(kit.put(saver), [], "task")


def test_writes_need_a_checkpoint(saver, kit):
    with pytest.raises(ValueError, match="names no checkpoint_id"):
        saver.put_writes(kit.config(), [("a", 1)], "task")


@pytest.mark.parametrize(
    "text", ["a\0b", "\0", "", "x" * 128, "ünï ☃ \U0001f600", "thread ", "Thread", "'; --", "a|b:c", '"$.']
)
def test_any_text_is_a_name(saver, kit, text):
    for other in ("thread", text + "x", text + "\0", text.upper() + "y"):
        kit.put(saver, {"c": "other"}, config=kit.config(other, other))
    config = kit.put(saver, {text: [text]}, config=kit.config(text, text), metadata={"step": 7})
    saver.put_writes(config, [(text, text)], text, text)

    found = saver.get_tuple(kit.config(text, text))

    assert found.config["configurable"]["thread_id"] == text
    assert found.checkpoint["channel_values"] == {text: [text]}
    assert found.pending_writes == [(text, text, text)]
    assert [each.config for each in saver.list(kit.config(text, text))] == [config]
    saver.copy_thread(text, "copy of it")
    assert saver.get_tuple(kit.config("copy of it", text)).pending_writes == [(text, text, text)]
    saver.prune([text])
    assert saver.get_tuple(config) is not None
    saver.delete_thread(text)
    assert saver.get_tuple(config) is None


@pytest.mark.parametrize(("name", "most"), [("thread_id", 512), ("checkpoint_ns", 1024), ("task_id", 256)])
def test_too_long_a_key_is_named_and_nothing_is_cut(saver, kit, name, most):
    def use(text):
        place = {"thread_id": "t", "checkpoint_ns": "", "task_id": "task", name: text}
        config = kit.put(saver, {"c": 1}, config=kit.config(place["thread_id"], place["checkpoint_ns"]))
        saver.put_writes(config, [("c", 2)], place["task_id"])
        return saver.get_tuple(config)

    assert use("é" * (most // 2)).pending_writes[0][2] == 2
    with pytest.raises(InvalidKey, match=f"{name} .* has {most + 2:,} bytes of UTF-8, at most {most:,}"):
        use("é" * (most // 2 + 1))


def test_a_thread_id_that_is_no_text_is_taken_as_text(saver, kit):
    kit.put(saver, {"c": 1}, config=kit.config(42))  # type: ignore[arg-type]

    assert saver.get_tuple(kit.config("42")).checkpoint["channel_values"] == {"c": 1}
