"""Waiting: what an interrupt tells of a date, and when a checkpoint was made."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Interrupt
from typing_extensions import TypedDict

from orchestra.questions import question_of
from orchestra.timers import due_of, in_utc, is_timer, moment_of, overdue

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
TIMER = Interrupt(value={"kind": "orchestra_timer", "due": NOON.isoformat()}, id="1")
QUESTION = Interrupt(
    value={"kind": "orchestra_question", "question": "who?", "due": NOON.isoformat(), "otherwise": None}, id="2"
)


def test_a_checkpoints_id_tells_when_it_was_made() -> None:
    # The example of version 6 in RFC 9562, appendix A.5.
    assert moment_of("1EC9414C-232A-6B00-B3C8-9F6BDECED846".lower()) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    for _ in range(100):
        checkpoint = empty_checkpoint()
        apart = datetime.fromisoformat(checkpoint["ts"]) - moment_of(checkpoint["id"])
        assert abs(apart) < timedelta(seconds=0.5)
        assert moment_of(checkpoint["id"]).tzinfo is UTC


def test_it_agrees_with_the_version_1_id_of_the_same_bits() -> None:
    """Version 6 is version 1 with its bits in another order, and Python reads the time of version 1."""
    for _ in range(100):
        first = uuid.uuid1()
        time = f"{first.time:015x}"
        sixth = f"{time[:8]}-{time[8:12]}-6{time[12:]}-{first.hex[16:20]}-{first.hex[20:]}"
        since = moment_of(sixth) - datetime(1582, 10, 15, tzinfo=UTC)
        assert since // timedelta(microseconds=1) == first.time // 10


def test_the_ids_of_a_graphs_checkpoints_agree_with_their_times() -> None:
    class State(TypedDict):
        n: int

    builder = StateGraph(State)
    builder.add_node("add", lambda state: {"n": state["n"] + 1})
    builder.add_edge(START, "add")
    builder.add_edge("add", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke({"n": 1}, config)
    steps = [*graph.get_state_history(config)]
    moments = [moment_of(step.config["configurable"]["checkpoint_id"]) for step in steps]
    assert moments == sorted(moments, reverse=True)
    assert len(steps) == 3
    for step, moment in zip(steps, moments, strict=True):
        assert abs(datetime.fromisoformat(step.created_at or "") - moment) < timedelta(seconds=0.5)


def test_a_moment_without_a_timezone_is_in_utc_and_one_with_keeps_it() -> None:
    assert in_utc(datetime(2030, 1, 1, 12)) == NOON
    there = datetime(2030, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert in_utc(there) is there


def test_what_an_interrupt_tells() -> None:
    assert (is_timer(TIMER), due_of(TIMER)) == (True, NOON)
    assert (is_timer(QUESTION), due_of(QUESTION), question_of(QUESTION).value) == (False, NOON, "who?")


@pytest.mark.parametrize(("late", "over"), [(-1, False), (0, True), (1, True)])
def test_when_it_is_over_by_itself(late: int, over: bool) -> None:
    at = NOON + timedelta(microseconds=late)
    assert overdue(QUESTION, at) == ((None,) if over else ())  # None is an answer like any other
    assert len(overdue(TIMER, at)) == over


@pytest.mark.parametrize(
    "value", ["who?", None, 7, [], {}, {"due": NOON.isoformat()}, {"kind": "mine", "due": NOON.isoformat()}]
)
def test_questions_of_the_users_own_are_never_over(value: Any) -> None:
    asked = Interrupt(value=value, id="3")
    assert (is_timer(asked), due_of(asked), overdue(asked, NOON + timedelta(days=9))) == (False, None, ())
    assert question_of(asked).value == value
