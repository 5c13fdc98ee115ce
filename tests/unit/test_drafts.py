from __future__ import annotations

import json
import random
import time
import unicodedata
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from orchestra import Agent, Capability, Plan
from orchestra.drafts import Draft, DraftTask, complaints, draft_type, repair
from orchestra.planning import check_plan

REQUEST = "Compare the two products"


def agent(name: str, description: str = "", *capabilities: str) -> Agent:
    return Agent(name, lambda task: task, description=description, capabilities=[Capability(c) for c in capabilities])


ROSTER = [
    agent("researcher", "Finds facts.", "research"),
    agent("web_search", "", "research", "search"),
    agent("writer", "Writes reports.", "writing"),
    agent("internal_reviewer"),
]
NAMES = {each.name: each for each in ROSTER}


def read(*tasks: dict[str, Any]) -> Draft:
    return Draft.model_validate({"tasks": tasks})


def told(*tasks: dict[str, Any], limit: int = 20) -> str:
    said = complaints(read(*tasks), ROSTER, limit=limit)
    assert all(line and len(line.splitlines()) == 1 for line in said)
    return "\n".join(said)


def mended(*tasks: dict[str, Any], limit: int = 20, request: str = REQUEST) -> tuple[dict[str, Any], str]:
    """What is left of each task, by id, and what was done."""
    made = repair(read(*tasks), ROSTER, limit=limit, request=request)
    assert made is not None
    plan, done = made
    assert all(line and len(line.splitlines()) == 1 for line in done)
    check_plan(plan, NAMES, limit=limit)
    return {task.id: task for task in plan.tasks}, "\n".join(done)


def needs(tasks: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: task.needs for name, task in tasks.items()}


def task(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "instruction": f"Do what {name} says", "agent": "writer", "needs": needs, **more}


# Reading


def test_what_a_model_may_write_is_understood() -> None:
    draft = Draft.model_validate_json(
        '[{"id": 1, "needs": null, "thoughts": "hm"}, {"id": "b", "needs": 1, "agent": null}]'
    )
    assert draft.tasks == [DraftTask(id="1"), DraftTask(id="b", needs=["1"])]
    half = read(task("a\ud800", "\udc00", instruction="x \ud83d"))
    plan, _ = mended(*half.model_dump()["tasks"])
    assert [each.instruction for each in plan.values()] == ["x ?"]
    json.dumps(list(plan), ensure_ascii=False).encode()


def test_the_type_of_a_roster_holds_a_model_to_its_names() -> None:
    kind = draft_type([agent("b", "", "y"), agent("a", "", "x")], limit=7)
    schema = kind.model_json_schema()
    fields = schema["properties"]["tasks"]["items"]["properties"]
    assert list(fields) == schema["properties"]["tasks"]["items"]["required"] == ["id", "instruction", "agent", "needs"]
    assert fields["agent"]["enum"] == ["a", "b"]
    assert (schema["properties"]["tasks"]["maxItems"], fields["needs"]["maxItems"]) == (7, 7)
    assert all(field["description"] for field in fields.values())
    assert "$ref" not in json.dumps(schema)
    assert TypeAdapter(kind).json_schema() == schema
    draft = kind.model_validate({"tasks": [{"id": "x", "agent": "A"}]})
    assert isinstance(draft, Draft)
    assert repair(draft, [agent("a", "does it")], limit=1, request="r") is not None


def test_a_capability_is_offered_where_agents_share_it() -> None:
    fields = draft_type(ROSTER, limit=10**6).model_json_schema()["properties"]["tasks"]["items"]["properties"]
    assert list(fields) == ["id", "instruction", "agent", "capability", "needs"]
    assert fields["capability"]["anyOf"] == [{"type": "string", "enum": ["research"]}, {"type": "null"}]
    assert fields["agent"]["anyOf"][0]["enum"] == sorted(NAMES)
    assert fields["needs"]["maxItems"] < 2000
    assert "agent" not in draft_type([], limit=3).model_json_schema()["properties"]["tasks"]["items"]["properties"]


# What is wrong, and what is done about it


def test_no_task_and_nothing_said() -> None:
    assert "no task" in told()
    assert repair(read(), ROSTER, limit=5, request=REQUEST) is None
    assert "No instruction in task 'a'" in told({"id": "a", "needs": ["b"]})
    assert repair(read({}, {"instruction": " \n", "agent": " "}), ROSTER, limit=5, request=REQUEST) is None


def test_too_many_tasks_keep_those_that_are_done_first() -> None:
    chain = [task(f"t{i}", *[f"t{i + 1}"][: i < 5]) for i in range(6)]
    assert "6 tasks, and 4 are allowed" in told(*chain, limit=4)
    tasks, done = mended(*chain, limit=4)
    assert needs(tasks) == {"t2": ("t3",), "t3": ("t4",), "t4": ("t5",), "t5": ()}
    assert "6 tasks are more than 4: tasks 't0', 't1'" in done
    assert repair(read(*chain), ROSTER, limit=2, request=REQUEST) is None
    assert repair(read(*chain), ROSTER, limit=0, request=REQUEST) is None


def test_every_task_gets_an_id_of_its_own() -> None:
    draft = [{"instruction": "x", "agent": "writer"}, task("writer_1"), task("a"), task(" a", instruction="y")]
    draft += [{"id": "\u200b", "instruction": "z"}, task("b", "a")]
    assert "let us call number 1 'writer_7', number 4 'a_4', number 5 'task_5'." in told(*draft)
    tasks, done = mended(*draft)
    assert needs(tasks) == {"writer_7": (), "writer_1": (), "a": (), "a_4": (), "task_5": (), "b": ("a",)}
    assert "called number 1 'writer_7', number 4 'a_4', number 5 'task_5'" in done


def test_names_are_read_however_they_are_spelled() -> None:
    long = "x" * 300
    draft = [
        task(" find\n\u200b facts", agent="WEB-Search"),
        task("b", "Find_Facts", agent="Writer "),
        task(long, long, "b"),
    ]
    draft += [task("c", long, agent=None, capability="RESEARCH")]
    assert told(*draft[:2], draft[3] | {"needs": ["B"]}) == ""
    tasks, _ = mended(*draft)
    assert needs(tasks) == {"find facts": (), "b": ("find facts",), "x" * 200: ("b",), "c": ("x" * 200,)}
    assert [each.agent for each in tasks.values()] == ["web_search", "writer", "writer", None]
    assert tasks["c"].capability == "research"
    draft = [task("a b"), task("a_b"), task("c", "A-B"), task("d", "a b")]
    assert list(needs(mended(*draft)[0]).values()) == [(), (), (), ("a b",)]
    roster = [agent("web_search"), agent("web-search")]
    made = repair(read({"id": "a", "instruction": "x", "agent": "Web Search"}), roster, limit=1, request="")
    assert made is not None
    assert made[0].tasks[0].agent is None


def test_a_need_for_an_agent_becomes_one_for_its_only_task() -> None:
    draft = [task("find", agent="researcher"), task("write", "Researcher", "find"), task("edit", "writer", agent=None)]
    draft += [task("more"), task("own", "internal reviewer", agent="internal_reviewer")]
    said = told(*draft)
    assert "'write' needs 'researcher', which is an agent. Write the id of its task: 'find'." in said
    assert "'edit' needs 'writer'. Needs are ids of other tasks" in said
    tasks, done = mended(*draft)
    assert needs(tasks) == {"find": (), "write": ("find",), "edit": (), "more": (), "own": ()}
    assert "'write' needs 'find', the only task of agent 'researcher'" in done
    assert "'edit' no longer needs 'writer': no such task" in done


def test_unknown_needs_go() -> None:
    draft = [task("find"), task("write", "find", "nothing", "", agent="researcher")]
    assert "'write' needs 'nothing'. Needs are ids of other tasks, and no task has such an id." in told(*draft)
    tasks, done = mended(*draft)
    assert needs(tasks) == {"find": (), "write": ("find",)}
    assert done == "'write' no longer needs 'nothing': no such task"


def test_an_unknown_agent_is_left_to_routing() -> None:
    draft = [task("a", agent="chef"), task("b", agent="chef")]
    there = "There are: 'internal_reviewer', 'researcher', 'web_search', 'writer'."
    assert told(*draft) == f"There is no agent 'chef' for tasks 'a', 'b'. {there}"
    tasks, done = mended(*draft)
    assert [each.agent for each in tasks.values()] == [None, None]
    assert done == "agent 'chef' left out, since there is none of this name, in tasks 'a', 'b'"


def test_a_task_of_an_unknown_agent_that_says_nothing_goes_and_so_do_needs_for_it() -> None:
    tasks, done = mended({"id": "a", "agent": "chef"}, task("b", "a"))
    assert needs(tasks) == {"b": ()}
    assert "dropped" in done
    assert "'b' no longer needs 'a'" in done


def test_unknown_capabilities_go_and_known_ones_stand_for_an_agent() -> None:
    draft = [task("a", agent=None, capability="Research"), task("b", agent="", capability="magic")]
    draft += [{"id": "c", "capability": "search"}]
    said = told(*draft)
    assert "There is no capability 'magic' for task 'b'. There are: 'research', 'search', 'writing'" in said
    assert "No instruction in task 'c'" in said
    tasks, _ = mended(*draft)
    assert [each.capability for each in tasks.values()] == ["research", None, "search"]
    assert tasks["c"].instruction == REQUEST


def test_an_empty_instruction_is_the_agents_description_or_the_request() -> None:
    draft = [{"id": "a", "agent": "writer"}, {"id": "b", "agent": "web_search", "instruction": " "}]
    assert told(*draft) == "No instruction in task 'b'. Say what is to be done, or leave it out."
    tasks, done = mended(*draft)
    assert [each.instruction for each in tasks.values()] == ["Writes reports.", REQUEST]
    assert done.splitlines() == ["the request taken for the instruction in task 'b'"]
    tasks, done = mended(*draft, request="")
    assert [each.instruction for each in tasks.values()] == ["Writes reports.", ""]
    assert not done


def test_a_circle_loses_the_need_against_the_order_of_the_list() -> None:
    draft = [task("a", "c"), task("b", "a", "b"), task("c", "b")]
    assert "A circle: task 'a' needs 'c', where 'a' is needed in turn" in told(*draft)
    tasks, done = mended(*draft)
    assert needs(tasks) == {"a": (), "b": ("a",), "c": ("b",)}
    assert "'a' no longer needs 'c'" in done
    assert "'b' no longer needs 'b'" in done


def test_a_list_in_any_order_without_a_circle_is_kept() -> None:
    draft = [task("c", "b", "a"), task("b", "a"), task("a")]
    assert not told(*draft)
    tasks, done = mended(*draft)
    assert list(needs(tasks).items()) == [("c", ("b", "a")), ("b", ("a",)), ("a", ())]
    assert not done


@pytest.mark.parametrize(
    "loop",
    [
        [task("a", instruction="Write it.") for _ in range(300)],
        [task(f"t{i}", instruction="Write it.") for i in range(300)],
        [task("", instruction="Write it.") for _ in range(300)],
        [task(f"t{i}", f"t{i - 1}", instruction="Write it." + " " * i) for i in range(300)],
        [task(f"t{i}", f"t{(i + 1) % 300}", instruction="Write it.") for i in range(300)],
        [task(f"t{i}", *(f"t{j}" for j in range(i, 50)), instruction="Write it.") for i in range(50)],
        [task(f"t{i}", "writer", instruction="Write it.") for i in range(300)],
    ],
)
def test_a_task_that_is_repeated_without_end_is_one(loop: list[dict[str, Any]]) -> None:
    tasks, done = mended(*loop, limit=3)
    assert len(tasks) == 1
    assert "merged" in done
    assert len(done) < 100_000
    assert told(*loop)


def test_repeats_of_a_task_with_inputs_are_merged_and_what_needs_them_needs_it() -> None:
    same = {"instruction": "Sum up"}
    draft = [task("a"), task("s", "a", **same), task("s2", "s", **same), task("s3", "s2", "a", **same), task("z", "s3")]
    assert "The work of task 's' once more, on the same inputs, in tasks 's2', 's3'. List it once." in told(*draft)
    tasks, _ = mended(*draft)
    assert needs(tasks) == {"a": (), "s": ("a",), "z": ("s",)}


def test_the_same_work_on_other_inputs_is_other_work() -> None:
    draft = [task("a"), task("b"), task("a1", "a", instruction="Sum up"), task("b1", "b", instruction="Sum up")]
    assert not told(*draft)
    assert len(mended(*draft)[0]) == 4
    by_agent = [task("a", agent="researcher"), task("b", agent="web_search")]
    by_agent += [task("a1", "researcher", instruction="Sum up"), task("b1", "web_search", instruction="Sum up")]
    assert len(mended(*by_agent)[0]) == 4
    more = [*draft[:3], task("a2", "a1", "b", instruction="Sum up")]
    assert list(mended(*more)[0]) == ["a", "b", "a1", "a2"]


def test_where_the_agent_is_named_the_capability_does_not_matter() -> None:
    draft = [task("a", instruction="Sum up", capability=name) for name in ("writing", "research")]
    assert len(mended(*draft)[0]) == 1
    draft = [task(name, instruction="Sum up", agent=None, capability=name) for name in ("writing", "research")]
    assert len(mended(*draft)[0]) == 2


# Whatever a model writes

ids = st.one_of(
    st.sampled_from(["a", "b", "c", "A", " a", "d_1", "D 1", "", "  ", "writer", "Writer", "x" * 201, "x" * 202]),
    st.text(),
)
agents = st.sampled_from([None, "", *NAMES, "Writer", "web search", "reviewer", "chef", "\n", "internal reviewer"])
capabilities = st.sampled_from([None, None, "research", "writing", "Search", "magic", " "])
instructions = st.one_of(
    st.sampled_from(["", " ", "sum up", "Sum  up", "find the prices", "find", "Writes reports."]), st.text()
)
draft_tasks = st.builds(
    DraftTask,
    id=ids,
    instruction=instructions,
    agent=agents,
    capability=capabilities,
    needs=st.lists(st.one_of(ids, st.sampled_from(sorted(NAMES))), max_size=5),
)
drafts = st.builds(Draft, tasks=st.lists(draft_tasks, max_size=14))


def as_draft(plan: Plan) -> Draft:
    return Draft.model_validate(plan.model_dump(exclude={"made_by"}))


@settings(max_examples=50, deadline=None)
@given(drafts, st.integers(0, 15), st.sampled_from([REQUEST, "", "sum up"]), st.permutations(ROSTER))
def test_whatever_is_drafted_a_plan_or_nothing_is_made(
    draft: Draft, limit: int, request: str, roster: list[Agent]
) -> None:
    made = repair(draft, ROSTER, limit=limit, request=request)
    said = complaints(draft, ROSTER, limit=limit)
    assert (made, said) == (repair(draft, roster, limit=limit, request=request), complaints(draft, roster, limit=limit))
    if made is None:
        assert said
        return
    plan, done = made
    check_plan(plan, NAMES, limit=limit)
    assert not done or said
    assert done or not said or not request
    assert all(line and len(line.splitlines()) == 1 for line in (*said, *done))
    assert repair(as_draft(plan), ROSTER, limit=limit, request=request) == (plan, ())
    known = {each.instruction for each in draft.tasks}
    spare = {request, *(each.description for each in ROSTER)}
    assert not Counter(each.instruction for each in plan.tasks if each.instruction not in spare) - Counter(
        each.instruction for each in draft.tasks
    )
    assert all(each.instruction in known | spare for each in plan.tasks)
    assert {each.agent for each in plan.tasks} <= {None, *NAMES}
    assert {each.capability for each in plan.tasks} <= {None, "research", "search", "writing"}
    assert len(plan.tasks) <= len(draft.tasks)


@st.composite
def tangles(draw: st.DrawFn) -> Draft:
    """Drafts with nothing wrong but circles."""
    names = [f"t{i}" for i in range(draw(st.integers(1, 12)))]
    wanted = st.lists(st.sampled_from(names), unique=True, max_size=4)
    return read(*(task(name, *draw(wanted)) for name in names))


@settings(max_examples=50, deadline=None)
@given(tangles())
def test_the_needs_that_go_are_those_in_a_circle_and_against_the_list(draft: Draft) -> None:
    made = repair(draft, ROSTER, limit=20, request=REQUEST)
    assert made is not None
    place = {each.id: i for i, each in enumerate(draft.tasks)}
    wanted = {each.id: each.needs for each in draft.tasks}

    def leads(start: str, end: str) -> bool:
        reached = [start]
        for name in reached:
            reached += [need for need in wanted[name] if need not in reached]
        return end in reached

    for each in draft.tasks:
        kept = [need for need in each.needs if place[need] < place[each.id] or not leads(need, each.id)]
        assert [*made[0].by_id[each.id].needs] == kept
    assert bool(made[1]) == bool(complaints(draft, ROSTER, limit=20))


@st.composite
def sound(draw: st.DrawFn) -> Draft:
    names = st.text(st.characters(categories=["L", "N"]), max_size=8).map(
        lambda text: unicodedata.normalize("NFC", text)
    )
    tasks = [
        task(
            f"t {i} {name}".strip(),
            instruction=f" {i}\n{name} ",
            agent=draw(st.sampled_from([None, *NAMES])),
            capability=draw(st.sampled_from([None, "research"])),
        )
        for i, name in enumerate(draw(st.lists(names, min_size=1)))
    ]
    for i, each in enumerate(tasks):
        each["needs"] = (
            draw(st.lists(st.sampled_from([t["id"] for t in tasks[:i]]), max_size=4, unique=True)) if i else []
        )
    return read(*draw(st.permutations(tasks)))


@settings(max_examples=30, deadline=None)
@given(sound())
def test_a_draft_without_flaw_is_kept_as_it_is(draft: Draft) -> None:
    assert complaints(draft, ROSTER, limit=len(draft.tasks)) == ()
    made = repair(draft, ROSTER, limit=len(draft.tasks), request=REQUEST)
    assert made is not None
    assert made[1] == ()
    assert as_draft(made[0]) == draft


WORDS = [f"word{i}" for i in range(500)]


@pytest.mark.parametrize("kind", ["sound", "tangle", "ring", "strangers"])
def test_two_thousand_tasks_are_read_within_a_second(kind: str) -> None:
    rng = random.Random(kind)
    count = 2000

    def wanted(i: int) -> list[str]:
        if kind == "ring":
            return [f"t{(i + 1) % count}"]
        there = {"sound": i, "tangle": count, "strangers": 0}[kind]
        return [f"t{rng.randrange(there)}" for _ in range(10)] if there else []

    draft = read(
        *(
            task(
                f"t{i}",
                *wanted(i),
                instruction=" ".join(rng.choices(WORDS, k=30)),
                agent=f"agent {rng.random()}" if kind == "strangers" else "writer",
            )
            for i in range(count)
        )
    )
    started = time.process_time()
    made = repair(draft, ROSTER, limit=count, request=REQUEST)
    took = time.process_time() - started
    assert made is not None
    assert bool(made[1]) == (kind != "sound")
    assert took < 1  # 0.2 s on a machine at rest
