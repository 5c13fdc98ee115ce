"""Keys of the user's own in the state: agents update them beside their output, and those that depend on it see that."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import operator
import threading
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph.message import add_messages
from langgraph.managed import RemainingSteps
from langgraph.types import Command, RetryPolicy, interrupt
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from checkpoints import SQLAlchemySaver
from orchestra import (
    Agent,
    Assignment,
    Orchestra,
    Review,
    RunState,
    Status,
    Workflow,
    WorkflowError,
    agent,
)

THREAD: Any = {"configurable": {"thread_id": "t"}}


def longest(old: str, new: str) -> str:
    """A reducer of the user's own."""
    return max(old, new, key=len)


def biggest(old: int, new: int) -> int:
    return max(old, new)


class Typed(TypedDict):
    notes: Annotated[list[str], operator.add]
    word: Annotated[str, longest]
    mood: str


@dataclasses.dataclass
class Data:
    notes: Annotated[list[str], operator.add] = dataclasses.field(default_factory=list)
    word: Annotated[str, longest] = ""
    mood: str = "calm"


class Model(BaseModel):
    notes: Annotated[list[str], operator.add] = Field(default_factory=list)
    word: Annotated[str, longest] = ""
    mood: str = "calm"


class Finding(BaseModel):
    fact: str


def step(name: str, update: Any = None, seen: dict[str, Any] | None = None, **options: Any) -> Agent:
    """Says its name; updates the state, if it is to, and tells what it saw of it."""

    async def run(task: Assignment) -> Any:
        if seen is not None:
            seen[name] = dict(task.state)
        made = update(task) if callable(update) else update
        return name if made is None else (name, Command(update=made))

    return Agent(name, run, **({"output": str} | options))


def chain(*agents: Agent, schema: Any = Typed, **options: Any) -> Workflow:
    flow = Workflow("chain", agents=agents, state_schema=schema, **options)
    for first, second in itertools.pairwise(agents):
        flow.add_edge(first.name, second.name)
    return flow


@pytest.mark.parametrize("schema", [Typed, Data, Model])
async def test_agents_update_the_state_and_those_after_them_see_it(any_saver: Any, schema: Any) -> None:
    seen: dict[str, Any] = {}
    flow = chain(
        step("one", {"notes": ["a"], "word": "long", "mood": "glad"}, seen),
        step("two", {"notes": ["b", "c"], "word": "no"}, seen),
        step("three", None, seen),
        schema=schema,
    )
    graph = flow.compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, THREAD)
    assert seen["two"] == {"notes": ["a"], "word": "long", "mood": "glad"}
    assert seen["three"] == {"notes": ["a", "b", "c"], "word": "long", "mood": "glad"}
    assert {key: state[key] for key in ("notes", "word", "mood")} == seen["three"]
    assert state["answer"] == "three"
    assert (await graph.aget_state(THREAD)).values["notes"] == ["a", "b", "c"]
    await graph.ainvoke({"request": "again"}, THREAD)  # the keys outlive the turn
    assert seen["one"] == {"notes": ["a", "b", "c"], "word": "long", "mood": "glad"}
    assert seen["two"]["notes"] == ["a", "b", "c", "a"]


async def test_the_state_is_stored_in_every_database(any_url: str) -> None:
    seen: dict[str, Any] = {}
    flow = chain(step("one", {"notes": ["ä"], "mood": "glad"}, seen), step("two", {"notes": ["b"]}, seen))
    async with Orchestra(any_url) as orchestra:
        await (await orchestra.start(flow, "go", thread_id="t"))
    async with Orchestra(any_url) as orchestra:
        await (await orchestra.start(flow, "again", thread_id="t"))
    assert seen["one"] == {"notes": ["ä", "b"], "mood": "glad", "word": ""}
    assert seen["two"] == {"notes": ["ä", "b", "ä"], "mood": "glad", "word": ""}


@pytest.mark.parametrize("schema", [Data, Model])
async def test_defaults_are_seen_until_somebody_writes(schema: Any) -> None:
    seen: dict[str, Any] = {}
    flow = chain(step("one", {"mood": "glad"}, seen), step("two", None, seen), schema=schema)
    await flow.compile().ainvoke({"request": "go"})
    assert seen["one"] == {"notes": [], "word": "", "mood": "calm"}
    assert seen["two"] == {"notes": [], "word": "", "mood": "glad"}


@dataclasses.dataclass
class Begun:
    """LangGraph begins the first with an empty list, and the second, whose type can't be called, with nothing."""

    notes: Annotated[list[str], operator.add] = dataclasses.field(default_factory=lambda: ["begin"])
    best: Annotated[int | None, biggest] = 7


@pytest.mark.parametrize(
    ("key", "default", "update", "after"), [("notes", ["begin"], ["a"], ["begin", "a"]), ("best", 7, 5, 7)]
)
async def test_a_default_and_a_reducer_give_the_same_to_dependants_and_in_the_state(
    database: str, key: str, default: Any, update: Any, after: Any
) -> None:
    seen: dict[str, Any] = {}
    flow = chain(step("one", {key: update}, seen), step("two", None, seen), schema=Begun)
    async with Orchestra(database) as orchestra:
        graph = flow.compile(checkpointer=orchestra.saver)
        state = await graph.ainvoke({"request": "go"}, THREAD)
        first = dict(seen)
        await graph.ainvoke({"request": "again"}, THREAD)
    assert state[key] == first["two"][key] == seen["one"][key]
    assert (first["one"][key], state[key]) == (default, after)


async def test_a_key_that_nobody_has_written_and_that_has_no_default_is_not_there() -> None:
    seen: dict[str, Any] = {}
    await chain(step("one", None, seen)).compile().ainvoke({"request": "go"})
    assert "mood" not in seen["one"]


async def test_of_several_who_write_a_plain_key_the_last_in_the_plan_wins(any_saver: Any) -> None:
    """Whoever ends last in time: the first of the plan here."""
    names = [f"a{i:02}" for i in range(12)]
    turn: dict[str, asyncio.Event] = {name: asyncio.Event() for name in names}

    def writer(name: str, following: str | None) -> Agent:
        async def run(task: Assignment) -> Any:
            await turn[name].wait()
            if following:
                turn[following].set()
            return name, Command(update={"mood": name})

        return Agent(name, run, output=str)

    seen: dict[str, Any] = {}
    agents = [writer(name, before) for name, before in zip(names, [None, *names], strict=False)]
    flow = Workflow("w", agents=[*agents, step("end", None, seen)], state_schema=Typed)
    flow.add_edge(names, "end")
    turn[names[-1]].set()
    graph = flow.compile(checkpointer=any_saver)
    state = await asyncio.wait_for(graph.ainvoke({"request": "go"}, THREAD), 10)
    assert state["mood"] == seen["end"]["mood"] == "a11"
    assert (await graph.aget_state(THREAD)).values["mood"] == "a11"


async def test_messages_under_another_name(any_saver: Any) -> None:
    class Chat(TypedDict):
        chat: Annotated[list[Any], add_messages]

    seen: dict[str, Any] = {}
    flow = chain(
        step("one", {"chat": [HumanMessage("first", id="1")]}, seen),
        step("two", {"chat": [AIMessage("changed", id="1"), AIMessage("second", id="2")]}, seen),
        step("three", None, seen),
        schema=Chat,
    )
    state = await flow.compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    assert [(m.id, m.content) for m in seen["two"]["chat"]] == [("1", "first")]
    assert [(m.id, m.content) for m in seen["three"]["chat"]] == [("1", "changed"), ("2", "second")]
    assert state["chat"] == seen["three"]["chat"]
    assert [m.content for m in state["messages"]] == ["go", "three"]


async def test_an_agent_sees_what_all_it_depends_on_has_written_and_nothing_else() -> None:
    seen: dict[str, Any] = {}
    apart = asyncio.Event()

    async def unrelated(task: Assignment) -> Any:
        apart.set()
        return "apart", Command(update={"notes": ["apart"]})

    def noting(name: str) -> Agent:
        async def run(task: Assignment) -> Any:
            seen[name] = list(task.state["notes"])
            if name == "top":  # everything below starts when the unrelated one has written
                await asyncio.wait_for(apart.wait(), 10)
                await asyncio.sleep(0.02)
            return name, Command(update={"notes": [name]})

        return Agent(name, run, output=str)

    agents = [Agent("apart", unrelated, output=str), *(noting(name) for name in ("top", "left", "right", "end"))]
    flow = Workflow("w", agents=agents, state_schema=Typed)
    flow.add_edge("top", "left").add_edge("top", "right").add_edge(["right", "left"], "end")
    state = await flow.compile().ainvoke({"request": "go"})
    assert seen == {"top": [], "left": ["top"], "right": ["top"], "end": ["top", "left", "right"]}
    assert sorted(state["notes"]) == ["apart", "end", "left", "right", "top"]


@pytest.mark.parametrize("blocking", [False, True])
async def test_the_annotation_tuple_of_t_and_command_declares_t(blocking: bool) -> None:
    if blocking:

        @agent
        def finder(task: Assignment) -> tuple[Finding, Command[Any]]:
            return Finding(fact="x"), Command(update={"notes": ["found"]})

    else:

        @agent
        async def finder(task: Assignment) -> tuple[Finding, Command]:
            return Finding(fact="x"), Command(update={"notes": ["found"]})

    @agent
    async def writer(finding: Finding, task: Assignment) -> str:
        return f"{finding.fact} {task.state['notes']}"

    assert finder.output is Finding
    flow = Workflow("w", agents=[finder, writer], state_schema=Typed)  # the flow follows from the types alone
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["results"]["finder"].output == Finding(fact="x")
    assert state["answer"] == "x ['found']"


async def test_without_an_annotation_the_update_is_told_from_the_output_all_the_same() -> None:
    async def loose(task: Assignment):
        return {"n": 1}, Command(update={"notes": ["a"]})

    state = await chain(Agent("loose", loose)).compile().ainvoke({"request": "go"})
    assert (state["results"]["loose"].output, state["notes"]) == ({"n": 1}, ["a"])


async def test_an_update_as_pairs_may_name_a_key_twice() -> None:
    seen: dict[str, Any] = {}
    flow = chain(step("one", [("mood", "glad"), ("notes", ["a"])], seen), step("two", None, seen))
    state = await flow.compile().ainvoke({"request": "go"})
    assert (state["mood"], state["notes"]) == ("glad", ["a"])
    assert seen["two"]["notes"] == ["a"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("x", Command(goto="two")), r"Command has more than update="),
        (("x", Command(update={"mood": "x"}, goto="two")), r"Command has more than update="),
        (("x", Command(resume="x")), r"Command has more than update="),
        (("x", Command(graph=Command.PARENT, update={"mood": "x"})), r"Command has more than update="),
        (Command(update={"mood": "x"}), r"return \(output, Command\(update=\{\.\.\.\}\)\)"),
        (("x", Command(update={"nots": ["x"]})), r"has no key 'nots'; it has mood, notes, word"),
        (("x", Command(update={"answer": "x"})), r"has no key 'answer'; it has mood, notes, word"),
        (("x", Command(update={"mood": "x", "nots": 1})), r"has no key 'nots'; it has mood, notes, word"),
    ],
)
async def test_what_else_a_command_says_fails_the_task_with_a_clear_error(
    any_saver: Any, value: Any, message: str
) -> None:
    async def one(task: Assignment) -> Any:
        return value

    flow = Workflow("w", agents=[Agent("one", one), step("two", {"notes": ["two"]})], state_schema=Typed)
    state = await flow.compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    result = state["results"]["one"]
    assert result.status is Status.FAILED
    assert len(result.attempts) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.error)
    assert (state["notes"], state["results"]["two"].output, state.get("mood")) == (["two"], "two", None)
    assert state["answer"].startswith("## two")


async def test_a_workflow_without_keys_of_its_own_says_how_to_declare_them() -> None:
    flow = Workflow("w", agents=[step("one", {"notes": ["a"]}), step("two")])
    state = await flow.compile().ainvoke({"request": "go"})
    assert state["results"]["one"].status is Status.FAILED
    assert "has no key 'notes'; it has none: declare one with state_schema=" in state["results"]["one"].error
    assert state["results"]["two"].ok


@pytest.mark.parametrize("make", [threading.Lock, object, lambda: lambda: 1])
async def test_an_update_that_cannot_be_stored_fails_the_task_and_the_run_goes_on(
    database: str, make: Callable[[], Any]
) -> None:
    flow = Workflow(
        "w", agents=[step("one", lambda _: {"mood": make()}), step("two", {"mood": "glad"})], state_schema=Typed
    )
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
    assert outcome.results["one"].status is Status.FAILED
    assert "the update of 'mood' can't be stored" in (outcome.results["one"].error or "")
    assert outcome.results["two"].ok
    async with Orchestra(database) as orchestra:
        graph = flow.compile(checkpointer=orchestra.saver)
        assert (await graph.aget_state(THREAD)).values["mood"] == "glad"
        assert (await orchestra.info("t")).state is RunState.FAILED


async def test_a_value_of_a_type_of_the_users_own_is_read_back_or_refused_at_once(database: str) -> None:
    """What the saver would not build again must not get into the state, or the thread could not be read any more."""

    class Best(TypedDict):
        best: Finding

    flow = chain(step("one", {"best": Finding(fact="x")}), step("two"), schema=Best)
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
    async with Orchestra(database) as orchestra:
        info = await orchestra.info("t")
        assert info.results["one"].status is outcome.results["one"].status
        graph = flow.compile(checkpointer=orchestra.saver)
        values = (await graph.aget_state(THREAD)).values
        assert not outcome.results["one"].ok or values["best"] == Finding(fact="x")
        assert (await (await orchestra.start(flow, "again", thread_id="t"))).answer is not None


async def test_a_value_of_an_allowed_type_is_read_back_as_it_was(database: str) -> None:
    class Best(TypedDict):
        best: Finding

    seen: dict[str, Any] = {}
    flow = chain(step("one", {"best": Finding(fact="x")}, seen), step("two", None, seen), schema=Best)
    for _ in range(2):
        async with SQLAlchemySaver(database, allowed_types=[Finding]) as saver, Orchestra(saver) as orchestra:
            await (await orchestra.start(flow, "go", thread_id="t"))
        assert seen["two"] == {"best": Finding(fact="x")}
    assert seen["one"] == {"best": Finding(fact="x")}


async def test_an_update_that_its_reducer_cannot_take_fails_the_task_and_the_run_goes_on(database: str) -> None:
    flow = chain(step("one", {"notes": 5}), step("two"), schema=Typed)
    flow.add_agent(step("apart", {"notes": ["a"]}))
    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(flow, "go", thread_id="t"))
        assert outcome.results["one"].status is Status.FAILED
        assert outcome.results["two"].status is Status.SKIPPED
        assert outcome.results["apart"].ok
        values = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    assert values["notes"] == ["a"]


@pytest.mark.parametrize("how", ["raises", "malformed", "unknown key"])
async def test_attempts_that_failed_leave_no_update_and_the_good_one_leaves_one(any_saver: Any, how: str) -> None:
    seen: dict[str, Any] = {}

    async def shaky(task: Assignment) -> Any:
        update = Command(update={"notes": [f"try {task.attempt}"], "mood": f"try {task.attempt}"})
        if task.attempt < 3:
            if how == "raises":
                raise ConnectionError("gone")
            if how == "malformed":
                return "not a number", update
            return 1, Command(update={"notes": ["bad"], "nots": []})
        return 1, update

    retry = RetryPolicy(max_attempts=3, initial_interval=0.001, retry_on=lambda error: True)
    flow = chain(Agent("shaky", shaky, output=int, retry=retry), step("two", None, seen))
    state = await flow.compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    assert len(state["results"]["shaky"].attempts) == 3
    assert state["results"]["shaky"].ok
    assert (state["notes"], state["mood"]) == (["try 3"], "try 3")
    assert seen["two"]["notes"] == ["try 3"]


async def test_a_task_that_fails_leaves_no_update_and_its_backup_does() -> None:
    async def failing(task: Assignment) -> Any:
        return "not a number", Command(update={"notes": ["principal"]})

    async def spare(task: Assignment) -> Any:
        return 1, Command(update={"notes": ["spare"]})

    once = RetryPolicy(max_attempts=1)
    agents = [
        Agent("one", failing, output=int, retry=once),
        Agent("lost", failing, output=int, retry=once),
        step("two", None, seen := {}),
    ]
    flow = Workflow("w", agents=agents, state_schema=Typed)
    flow.add_agent(Agent("spare", spare, output=int, retry=once), backup_for="one")
    flow.add_edge("one", "two").add_edge("lost", "two", optional=True)
    state = await flow.compile().ainvoke({"request": "go"})
    assert not state["results"]["lost"].ok
    assert state["notes"] == seen["two"]["notes"] == ["spare"]


async def test_a_reviewer_updates_the_state_too_and_of_rejected_drafts_nothing_stays(any_saver: Any) -> None:
    @agent
    async def author(task: Assignment) -> tuple[str, Command]:
        draft = f"draft {len(task.rejections) + 1}"
        return draft, Command(update={"notes": [draft], "mood": draft})

    @agent
    async def critic(author: str) -> tuple[Review, Command]:
        verdict = Review(approved=author == "draft 2", reasons=("too short",))
        return verdict, Command(update={"notes": [f"read {author}"]})

    seen: dict[str, Any] = {}
    flow = Workflow("w", agents=[author, critic, step("end", None, seen)], state_schema=Typed)
    flow.add_review("author", by="critic", rounds=2).add_edge("author", "end")
    state = await flow.compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    assert state["results"]["author"].output == "draft 2"
    assert state["mood"] == "draft 2"
    assert state["notes"] == seen["end"]["notes"] == ["draft 2", "read draft 2"]


async def test_what_an_author_wrote_is_kept_while_a_person_is_asked_about_the_draft(any_saver: Any) -> None:
    drafts: list[str] = []

    @agent
    async def author(task: Assignment) -> tuple[str, Command]:
        drafts.append("draft")
        return "draft", Command(update={"notes": ["written"]})

    @agent
    async def critic(author: str) -> Review:
        return Review(approved=interrupt("good?") == "yes")

    seen: dict[str, Any] = {}
    flow = Workflow("w", agents=[author, critic, step("end", None, seen)], state_schema=Typed)
    flow.add_review("author", by="critic").add_edge("author", "end")
    graph = flow.compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go"}, THREAD)
    state = await graph.ainvoke(Command(resume="yes"), THREAD)
    assert drafts == ["draft"]
    assert state["notes"] == seen["end"]["notes"] == ["written"]


@pytest.mark.parametrize("nested", [False, True])
async def test_after_a_crash_dependants_see_what_was_written_before_it(any_url: str, nested: bool) -> None:
    hanging, runs, seen = [True], list[str](), dict[str, Any]()

    async def middle(task: Assignment) -> Any:
        runs.append("middle")
        seen["middle"] = dict(task.state)
        if hanging:
            await asyncio.sleep(60)
        return "middle", Command(update={"notes": ["middle"]})

    def counted(name: str) -> Callable[[Assignment], Mapping[str, Any]]:
        return lambda task: runs.append(name) or {"notes": [name], "mood": name}  # type: ignore[func-returns-value]

    agents = [step("one", counted("one")), Agent("middle", middle, output=str), step("end", None, seen)]
    flow = chain(*agents, schema=Data)
    flow = Workflow("outer", agents=[Agent("team", flow)]) if nested else flow
    async with Orchestra(any_url) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        async with asyncio.timeout(10):
            while True:
                info = await orchestra.info("t")
                info = info.teams.get("team") if nested else info
                if info and "one" in info.raw and "middle" in runs:
                    break
                await asyncio.sleep(0.01)
        await run.cancel()
    hanging.clear()
    before = seen.pop("middle")
    async with Orchestra(any_url) as orchestra:
        outcome = await (await orchestra.resume("t", workflow=flow))
    assert outcome.state is RunState.DONE
    assert runs == ["one", "middle", "middle"]
    assert seen["middle"] == before == {"notes": ["one"], "word": "", "mood": "one"}
    assert seen["end"] == {"notes": ["one", "middle"], "word": "", "mood": "one"}


async def test_after_a_drain_the_next_wave_sees_what_was_written_before_it(database: str) -> None:
    working, gate, seen = asyncio.Event(), asyncio.Event(), dict[str, Any]()

    async def one(task: Assignment) -> Any:
        working.set()
        await gate.wait()
        return "one", Command(update={"notes": ["one"]})

    flow = chain(Agent("one", one, output=str), step("two", {"notes": ["two"]}, seen), step("end", None, seen))
    async with Orchestra(database) as orchestra:
        run = await orchestra.start(flow, "go", thread_id="t")
        await asyncio.wait_for(working.wait(), 10)
        run.drain()
        gate.set()
        assert {*(await run).results} == {"one"}
    async with Orchestra(database) as orchestra:
        await (await orchestra.resume("t", workflow=flow))
        values = (await flow.compile(checkpointer=orchestra.saver).aget_state(THREAD)).values
    assert seen["two"]["notes"] == ["one"]
    assert seen["end"]["notes"] == values["notes"] == ["one", "two"]


async def test_an_agent_that_asks_updates_once_it_has_its_answer(any_saver: Any) -> None:
    seen: dict[str, Any] = {}
    flow = chain(
        step("one", {"notes": ["one"]}, seen),
        step("asks", lambda _: {"notes": [interrupt("what?")]}, seen),
        step("end", None, seen),
    )
    graph = flow.compile(checkpointer=any_saver)
    state = await graph.ainvoke({"request": "go"}, THREAD)
    assert "end" not in seen
    state = await graph.ainvoke(Command(resume="this"), THREAD)
    assert seen["asks"]["notes"] == ["one"]
    assert state["notes"] == seen["end"]["notes"] == ["one", "this"]


async def test_what_one_agent_changes_in_its_copy_nobody_else_sees(any_saver: Any) -> None:
    class Nested(TypedDict):
        tree: dict[str, Any]
        notes: Annotated[list[str], operator.add]

    def vandal(task: Assignment) -> Any:
        task.state["tree"]["leaves"].append("graffiti")
        task.state["notes"].append("graffiti")
        return {"notes": ["was here"]}

    seen: dict[str, Any] = {}
    agents = [
        step("plants", {"tree": {"leaves": []}, "notes": ["planted"]}),
        step("vandal", vandal),
        step("second", vandal),
        step("end", None, seen),
    ]
    flow = chain(*agents, schema=Nested)
    graph = flow.compile(checkpointer=any_saver)
    for turn in (1, 2):
        state = await graph.ainvoke({"request": "go"}, THREAD)
        assert seen["end"]["tree"] == state["tree"] == {"leaves": []}
        assert state["notes"] == seen["end"]["notes"] == ["planted", "was here", "was here"] * turn


def reserved(key: str) -> Any:
    return TypedDict("Reserved", {"fine": str, key: str})  # type: ignore[misc, operator]


@pytest.mark.parametrize(
    "key",
    ["request", "given", "asked", "dropped", "plan", "planned", "turn", "results", "answer", "history"],
)
def test_a_key_of_orchestras_own_is_refused_when_the_workflow_is_declared(key: str) -> None:
    with pytest.raises(WorkflowError, match=f"the key '{key}' of state_schema is Orchestra's own; rename it"):
        Workflow("w", agents=[step("one")], state_schema=reserved(key))


@pytest.mark.filterwarnings("ignore:Invalid state_schema")
def test_what_else_cannot_be_a_key_is_refused_when_the_workflow_is_declared() -> None:
    class Managed(TypedDict):
        left: RemainingSteps

    with pytest.raises(WorkflowError, match="'left' of state_schema is a managed value"):
        Workflow("w", agents=[step("one")], state_schema=Managed)

    class Builtin(TypedDict):
        best: Annotated[int, max]  # LangGraph can't read its signature

    for schema in (7, "Notes", object(), Builtin):
        with pytest.raises(WorkflowError, match="can't be used"):
            Workflow("w", agents=[step("one")], state_schema=schema)


@pytest.mark.parametrize("key", ["one", "supervisor", "gather"])
async def test_a_key_may_have_the_name_of_an_agent(any_saver: Any, key: str) -> None:
    schema = TypedDict("Named", {key: str})  # type: ignore[misc]
    seen: dict[str, Any] = {}
    flow = chain(step("one", {key: "glad"}, seen), step("two", None, seen), schema=schema)
    state = await flow.compile(checkpointer=any_saver).ainvoke({"request": "go"}, THREAD)
    assert (state[key], seen["two"], state["answer"]) == ("glad", {key: "glad"}, "two")


async def test_messages_in_the_schema_are_langgraphs_messages() -> None:
    class Chat(TypedDict):
        messages: Annotated[list[Any], add_messages]
        mood: str

    state = await chain(step("one", {"mood": "glad"}), schema=Chat).compile().ainvoke({"request": "go"})
    assert [message.content for message in state["messages"]] == ["go", "one"]
    assert state["mood"] == "glad"


async def test_a_team_has_a_state_of_its_own(any_saver: Any) -> None:
    """The names may be the same: what is inside stays inside, and each call begins anew."""
    seen: dict[str, Any] = {}
    inner = chain(step("in1", {"notes": ["in1"], "mood": "low"}, seen), step("in2", {"notes": ["in2"]}, seen))
    agents = [step("one", {"notes": ["one"]}, seen), Agent("team", inner), step("end", None, seen)]
    outer = Workflow("outer", agents=agents, state_schema=Data)
    outer.add_edge("one", "team").add_edge("team", "end")
    graph = outer.compile(checkpointer=any_saver)
    for turn in (1, 2):
        state = await graph.ainvoke({"request": "go"}, THREAD)
        assert state["results"]["team"].output == "in2"
        assert seen["in1"].get("notes", []) == []
        assert seen["in2"] == {"notes": ["in1"], "word": "", "mood": "low"}
        assert seen["end"] == {"notes": ["one"] * turn, "word": "", "mood": "calm"}
        assert state["notes"] == ["one"] * turn


async def test_a_team_with_keys_in_a_workflow_without() -> None:
    seen: dict[str, Any] = {}
    inner = chain(step("in1", {"notes": ["in1"]}, seen), step("in2", None, seen))
    state = await Workflow("outer", agents=[Agent("team", inner)]).compile().ainvoke({"request": "go"})
    assert (state["answer"], seen["in2"]["notes"]) == ("in2", ["in1"])
    assert "notes" not in state


@pytest.mark.parametrize("schema", [Typed, Data, Model])
async def test_values_for_the_keys_come_with_the_request(any_saver: Any, schema: Any) -> None:
    seen: dict[str, Any] = {}
    flow = chain(step("one", {"notes": ["one"]}, seen), step("two", None, seen), schema=schema)
    graph = flow.compile(checkpointer=any_saver)
    await graph.ainvoke({"request": "go", "notes": ["given"], "mood": "glad"}, THREAD)
    assert seen["one"] == {"notes": ["given"], "word": "", "mood": "glad"}
    assert seen["two"]["notes"] == ["given", "one"]
    state = await graph.ainvoke({"request": "again", "notes": ["more"]}, THREAD)
    assert seen["one"] == {"notes": ["given", "one", "more"], "word": "", "mood": "glad"}
    assert state["notes"] == ["given", "one", "more", "one"]


def test_sync_calls_update_the_state_as_well() -> None:
    @agent
    def one(task: Assignment) -> tuple[str, Command]:
        return "one", Command(update={"notes": [*task.state["notes"], "one"]})

    state = chain(one).compile().invoke({"request": "go", "notes": ["given"]})
    assert state["notes"] == ["given", "given", "one"]
