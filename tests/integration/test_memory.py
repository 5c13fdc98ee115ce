"""What is remembered of a user: written by agents that succeed and by people, read by each later turn of the user."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, interrupt

from orchestra import Agent, Assignment, Memo, Memory, Orchestra, RequestError, Review, Status, Workflow, agent

NAMES = [
    "ada",
    "ada.lovelace@example.org",
    "a.b.c",
    "a%2Eb",
    "a/b",
    "/",
    "..",
    "Ada King, Countess of Lovelace",
    " ",
    "Зоя",
    "名前🎻",
    "langgraph",
    "a:b|c\\d'e\"f%_",
    "x" * 200,
    "é" * 200,
    "🎻" * 200,
    "." * 200,
]


def worker(name: str, work: Callable[[Assignment], Any] = lambda _: None, seen: list[Any] | None = None) -> Agent:
    """Notes what it knows of the user, then does what it is to."""

    async def run(task: Assignment) -> str:
        if seen is not None:
            seen.append((dict(task.preferences), dict(task.facts)))
        made = work(task)
        return made if isinstance(made, str) else name

    return Agent(name, run)


def one(work: Callable[[Assignment], Any] = lambda _: None, seen: list[Any] | None = None) -> Workflow:
    return Workflow("one", agents=[worker("one", work, seen)])


def told(memos: list[Memo]) -> list[tuple[str, Any, str, str]]:
    return [(memo.key, memo.value, memo.kind, memo.by) for memo in memos]


async def test_what_agents_remember_reaches_turns_threads_workflows_and_processes(any_url: str) -> None:
    seen: list[Any] = []

    def learn(task: Assignment) -> None:
        task.remember("tone", "dry")
        task.remember("city", {"name": "Zürich", "since": [2001, None]}, kind="fact")

    known = ({"tone": "dry"}, {"city": {"name": "Zürich", "since": [2001, None]}})
    async with Orchestra(any_url) as orchestra:
        await (await orchestra.start(one(learn, seen), "go", thread_id="t", user="ada"))
        await (await orchestra.start(one(seen=seen), "go on", thread_id="t", user="ada"))
        await (await orchestra.start(one(seen=seen), "go", thread_id="u", user="ada"))
        other = Workflow("other", agents=[worker("other", seen=seen)])
        await (await orchestra.start(other, "go", user="ada"))
        assert seen == [({}, {}), known, known, known]
    async with Orchestra(any_url) as orchestra:
        outer = Workflow("outer", agents=[Agent("team", Workflow("team", agents=[Agent("inner", other)]))])
        await (await orchestra.start(outer, "go", user="ada"))
        assert seen[-1] == known
        for user in ("bob", "", "ad", "ada2", "Ada"):
            await (await orchestra.start(one(seen=seen), "go", user=user))
            assert seen[-1] == ({}, {})
        memos = await orchestra.memory("ada").all()
        assert told(memos) == [("city", known[1]["city"], "fact", "one"), ("tone", "dry", "preference", "one")]
        assert all(memo.at is not None and memo.at.tzinfo is not None for memo in memos)
        assert await orchestra.users() == ["ada"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("blocking", [False, True])
async def test_async_and_sync_agents_remember_and_forget(database: str, blocking: bool, nested: bool) -> None:
    def work(task: Assignment) -> str:
        if task.request == "learn":
            task.remember("tone", "dry")
            task.remember("tone", "warm")  # the last one counts
            task.remember("gone", 1)
            task.forget("gone")
            task.remember("pet", "cat", kind="fact")
        else:
            task.forget("tone")
            task.forget("never known")
        return task.user

    async def awork(task: Assignment) -> str:
        return work(task)

    flow = Workflow("w", agents=[Agent("it", work if blocking else awork)])
    flow = Workflow("outer", agents=[Agent("team", flow)]) if nested else flow
    async with Orchestra(database) as orchestra:
        assert (await (await orchestra.start(flow, "learn", user="ada"))).answer == "ada"
        memos = await orchestra.memory("ada").all()
        assert told(memos) == [("pet", "cat", "fact", "it"), ("tone", "warm", "preference", "it")]
        await (await orchestra.start(flow, "unlearn", user="ada"))
        assert [memo.key for memo in await orchestra.memory("ada").all()] == ["pet"]


async def test_what_a_failed_attempt_noted_is_dropped(database: str) -> None:
    def shaky(task: Assignment) -> None:
        task.remember(f"try {task.attempt}", task.attempt)
        task.forget("kept")
        if task.attempt < 3:
            raise ConnectionError("gone")

    def bad(task: Assignment) -> None:
        task.remember("bad", 1)
        task.forget("kept")
        raise ValueError("no")

    retry = RetryPolicy(max_attempts=2, initial_interval=0.001)
    two = Workflow("two", agents=[Agent("shaky", shaky, retry=retry), worker("bad", bad)])
    async with Orchestra(database) as orchestra:
        await orchestra.memory("ada").remember("kept", 1)
        outcome = await (await orchestra.start(two, "go", user="ada"))
        assert [result.status for result in outcome.results.values()] == [Status.FAILED] * 2
        assert [memo.key for memo in await orchestra.memory("ada").all()] == ["kept"]
        three = Workflow("three", agents=[Agent("shaky", shaky, retry=retry._replace(max_attempts=3))])
        assert (await (await orchestra.start(three, "go", user="ada"))).results["shaky"].ok
        assert [memo.key for memo in await orchestra.memory("ada").all()] == ["try 3"]


async def test_of_a_principal_that_failed_and_its_backup_only_the_backup_is_remembered(database: str) -> None:
    def failing(task: Assignment) -> str:
        task.remember("principal", 1)
        raise ValueError("no")

    flow = Workflow("w", agents=[worker("first", failing)])
    flow.add_agent(worker("spare", lambda task: task.remember("spare", 1)), backup_for="first")
    async with Orchestra(database) as orchestra:
        assert (await (await orchestra.start(flow, "go", user="ada"))).results["first"].agent == "spare"
        assert told(await orchestra.memory("ada").all()) == [("spare", 1, "preference", "first")]


async def test_of_a_rejected_draft_nothing_is_remembered(database: str) -> None:
    @agent
    async def author(task: Assignment) -> str:
        draft = f"draft {len(task.rejections) + 1}"
        task.remember(draft, 1)
        return draft

    @agent
    async def critic(author: str) -> Review:
        return Review(approved=author == "draft 2")

    flow = Workflow("w", agents=[author, critic]).add_review("author", by="critic")
    async with Orchestra(database) as orchestra:
        assert (await (await orchestra.start(flow, "go", user="ada"))).answer == "draft 2"
        assert [memo.key for memo in await orchestra.memory("ada").all()] == ["draft 2"]


async def test_what_an_author_noted_is_kept_while_a_person_is_asked_about_the_draft(database: str) -> None:
    @agent
    async def author(task: Assignment) -> str:
        task.remember("tone", "dry")
        return "draft"

    @agent
    async def critic(author: str) -> Review:
        return Review(approved=interrupt("good?"))

    flow = Workflow("w", agents=[author, critic]).add_review("author", by="critic")
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t", user="ada"))
        outcome = await (await orchestra.resume("t", workflow=flow, answers={outcome.questions[0].id: True}))
        assert outcome.answer == "draft"
        assert [memo.key for memo in await orchestra.memory("ada").all()] == ["tone"]


async def test_a_turn_sees_what_was_known_when_it_began(database: str) -> None:
    seen: list[Any] = []
    flow = Workflow("w", agents=[worker("a", lambda task: task.remember("tone", "dry")), worker("b", seen=seen)])
    flow.add_edge("a", "b")
    async with Orchestra(database) as orchestra:
        for _ in range(2):
            await (await orchestra.start(flow, "go", user="ada"))
    assert seen == [({}, {}), ({"tone": "dry"}, {})]


async def test_what_one_agent_changes_in_what_it_is_told_nobody_else_sees(database: str) -> None:
    def vandal(task: Assignment) -> None:
        task.preferences["likes"].append("graffiti")

    seen: list[Any] = []
    flow = Workflow("w", agents=[worker("vandal", vandal), worker("next", seen=seen)])
    flow.add_edge("vandal", "next")
    async with Orchestra(database) as orchestra:
        await orchestra.memory("ada").remember("likes", ["tea"])
        assert (await (await orchestra.start(flow, "go", user="ada"))).results["vandal"].ok
    assert seen == [({"likes": ["tea"]}, {})]


@pytest.mark.parametrize("name", NAMES)
async def test_users_may_have_any_name(database: str, name: str) -> None:
    seen: list[Any] = []
    async with Orchestra(database) as orchestra:
        await (await orchestra.start(one(lambda task: task.remember("me", task.user), seen), "go", user=name))
        await (await orchestra.start(one(seen=seen), "go", user=name))
        assert seen == [({}, {}), ({"me": name}, {})]
        assert await orchestra.users() == [name]
        assert await orchestra.memory(name).forget() == 1
        assert await orchestra.users() == []


async def test_users_are_kept_apart_whatever_their_names(any_url: str) -> None:
    async with Orchestra(any_url) as orchestra:
        for number, name in enumerate(NAMES):
            await orchestra.memory(name).remember("number", number)
    async with Orchestra(any_url) as orchestra:
        assert await orchestra.users() == sorted(NAMES)
        for number, name in enumerate(NAMES):
            assert [memo.value for memo in await orchestra.memory(name).all()] == [number]
        assert await orchestra.memory(NAMES[0]).forget() == 1
        assert await orchestra.users() == sorted(NAMES[1:])


@pytest.mark.parametrize("caught", [False, True])
async def test_without_a_user_remembering_says_inside_the_agent_what_to_do(database: str, caught: bool) -> None:
    def work(task: Assignment) -> str | None:
        assert task.user == ""
        try:
            task.remember("tone", "dry")
        except ValueError as error:
            if caught:
                return str(error)
            raise
        return None

    flow = Workflow("w", agents=[worker("it", work), worker("other")])
    async with Orchestra(database) as orchestra:
        result = (outcome := await (await orchestra.start(flow, "go"))).results["it"]
        assert result.ok is caught
        text = (result.output if caught else result.error) or ""
        assert "can be remembered under 'tone': this run has no user" in text
        assert "start(..., user=...)" in text
        assert '"user_id"' in text
        assert outcome.results["other"].ok
        assert await orchestra.users() == []


async def test_without_a_user_there_is_nothing_to_forget_and_the_run_goes_on(database: str) -> None:
    flow = Workflow("w", agents=[worker("it", lambda task: task.forget("tone")), worker("other")])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go"))
        assert outcome.results["other"].ok


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"a": object()}, 1j, lambda: 1])
async def test_a_value_that_json_cannot_hold_is_refused_at_once(database: str, value: Any) -> None:
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(one(lambda task: task.remember("it", value)), "go", user="ada"))
        assert outcome.results["one"].status is Status.FAILED
        with pytest.raises(RequestError, match="'it' can't be remembered"):
            await orchestra.memory("ada").remember("it", value)
        assert await orchestra.memory("ada").all() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("it", math.nan),
        ("it", math.inf),
        ("it", "\ud800"),
        ("it", {"\ud800": 1}),
        ("it", 10**30),
        ("\ud800", 1),
        ("x\0y", 1),
    ],
)
async def test_a_value_on_the_brink_is_kept_as_it_is_or_refused_where_it_is_noted(
    database: str, key: str, value: Any
) -> None:
    """A task may fail for it, or an agent catch the error; the run must not fall over it."""
    flow = Workflow("w", agents=[worker("it", lambda task: task.remember(key, value)), worker("other")])
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t", user="ada"))
        assert outcome.results["other"].ok
        kept = {memo.key: memo.value for memo in await orchestra.memory("ada").all()}
        assert repr(kept) == repr({key: value} if outcome.results["it"].ok else {})
        try:
            await orchestra.memory("bob").remember(key, value)
        except RequestError:
            kept = {}
        else:
            kept = {memo.key: memo.value for memo in await orchestra.memory("bob").all()}
            assert repr(kept) == repr({key: value})


@pytest.mark.parametrize("key", ["", "k" * 201])
async def test_a_key_is_neither_empty_nor_endless(database: str, key: str) -> None:
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(one(lambda task: task.remember(key, 1)), "go", user="ada"))
        assert outcome.results["one"].status is Status.FAILED
        with pytest.raises(RequestError, match="can't be remembered"):
            await orchestra.memory("ada").remember(key, 1)
        assert await orchestra.memory("ada").all() == []


async def test_a_thousand_things_are_remembered_and_not_one_more(database: str) -> None:
    async with Orchestra(database) as orchestra:
        memory = orchestra.memory("ada")
        await memory.write(Memo(key=f"{i:04}", value=i) for i in range(1000))
        assert [memo.value for memo in await memory.all()] == [*range(1000)]
        with pytest.raises(RequestError, match="1000 things are remembered of 'ada' already; forget some"):
            await memory.remember("more", 1)
        await memory.remember("0007", "replaced")
        assert (await memory.all())[7].value == "replaced"
        await orchestra.memory("bob").remember("more", 1)  # the limit is each user's
        assert await memory.forget("0000") == 1
        await memory.remember("more", 1)
        assert len(await memory.all()) == 1000


async def test_the_limit_holds_for_agents_too(database: str) -> None:
    """Of a thousand and one, one would be lost without a word: whoever notes it must be told."""
    async with Orchestra(database) as orchestra:
        memory = orchestra.memory("ada")
        await memory.write(Memo(key=f"{i:04}", value=i) for i in range(1000))
        outcome = await (await orchestra.start(one(lambda task: task.remember("more", 1)), "go", user="ada"))
        kept = [memo.key for memo in await memory.all()]
        assert outcome.results["one"].ok is ("more" in kept)
        assert {f"{i:04}" for i in range(1000)} <= {*kept}


async def test_what_people_can_do_with_a_memory(any_url: str) -> None:
    async with Orchestra(any_url) as orchestra:
        memory = orchestra.memory("ada")
        assert (memory.user, await memory.all(), await memory.forget(), await memory.forget("x")) == ("ada", [], 0, 0)
        await memory.remember("tone", "dry")
        await memory.remember("city", "Bern", kind="fact")
        await memory.remember("city", "Basel", kind="fact")
        assert told(await memory.all()) == [("city", "Basel", "fact", "user"), ("tone", "dry", "preference", "user")]
        notes = [Memo(key="a", value=1, by="x"), Memo(key="a", value=2), Memo(key="tone", value=None)]
        await memory.write(notes)
        assert told(await memory.all()) == [("a", 2, "preference", "user"), ("city", "Basel", "fact", "user")]
        assert await memory.forget("tone") == 0
        assert await memory.forget() == 2
        assert await memory.all() == []
        assert await orchestra.users() == []
        await memory.write([])
        with pytest.raises(RequestError, match="not empty"):
            orchestra.memory("")


async def test_in_plain_langgraph_the_store_and_the_user_come_with_the_graph(any_saver: Any) -> None:
    seen: list[Any] = []
    store = InMemoryStore()
    graph = one(lambda task: task.remember("tone", "dry"), seen).compile(checkpointer=any_saver, store=store)
    ada: Any = {"configurable": {"thread_id": "t", "user_id": "ada"}}
    for _ in range(2):
        await graph.ainvoke({"request": "go"}, ada)
    await graph.ainvoke({"request": "go"}, {"configurable": {"thread_id": "u", "user_id": "bob"}})
    assert seen == [({}, {}), ({"tone": "dry"}, {}), ({}, {})]
    assert [memo.key for memo in await Memory(store, "ada").all()] == ["tone"]
    state = await graph.ainvoke({"request": "go"}, {"configurable": {"thread_id": "v"}})
    assert "this run has no user" in state["results"]["one"].error


async def test_without_a_store_a_user_cannot_be_remembered_and_is_told_so() -> None:
    graph = one(lambda task: task.remember("tone", "dry")).compile(checkpointer=InMemorySaver())
    state = await graph.ainvoke({"request": "go"}, {"configurable": {"thread_id": "t", "user_id": "ada"}})
    assert "compile with a store" in state["results"]["one"].error


def test_sync_calls_remember_as_well() -> None:
    store, seen = InMemoryStore(), list[Any]()
    graph = one(lambda task: task.remember("tone", "dry"), seen).compile(checkpointer=InMemorySaver(), store=store)
    config: Any = {"configurable": {"thread_id": "t", "user_id": "ada"}}
    for _ in range(2):
        graph.invoke({"request": "go"}, config)
    assert seen == [({}, {}), ({"tone": "dry"}, {})]


async def test_what_was_noted_before_a_question_is_remembered_once_it_is_answered(any_saver: Any) -> None:
    def asks(task: Assignment) -> str:
        task.remember("tone", "dry")
        return interrupt("who?")

    store = InMemoryStore()
    graph = one(asks).compile(checkpointer=any_saver, store=store)
    config: Any = {"configurable": {"thread_id": "t", "user_id": "ada"}}
    await graph.ainvoke({"request": "go"}, config)
    assert await Memory(store, "ada").all() == []
    await graph.ainvoke(Command(resume="me"), config)
    assert [memo.key for memo in await Memory(store, "ada").all()] == ["tone"]


async def test_many_runs_of_one_user_at_once_lose_nothing(database: str) -> None:
    flow = one(lambda task: task.remember(task.request, 1))
    async with Orchestra(database) as orchestra:
        runs = [await orchestra.start(flow, f"r{i:02}", user="ada") for i in range(20)]
        await asyncio.gather(*runs)
        assert [memo.key for memo in await orchestra.memory("ada").all()] == [f"r{i:02}" for i in range(20)]


async def test_the_next_turn_of_a_thread_is_its_users_unless_told_otherwise(database: str) -> None:
    users: list[str] = []

    async def it(task: Assignment) -> str:
        users.append(task.user)
        return "done"

    flow = Workflow("w", agents=[Agent("it", it)])
    async with Orchestra(database) as orchestra:
        for options in ({"user": "ada"}, {}, {"user": "bob"}, {}, {"user": ""}):
            await (await orchestra.start(flow, "go", thread_id="t", **options))
    assert users == ["ada", "ada", "bob", "bob", ""]
