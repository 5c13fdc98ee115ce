from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestra import Plan, PlanError, Result, Status, Task, TaskUnsuccessful
from orchestra.tasks import now


@st.composite
def acyclic(draw: st.DrawFn) -> list[Task]:
    names = [f"t{i}" for i in range(draw(st.integers(1, 25)))]
    tasks = [
        Task(id=name, needs=tuple(draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else ()))
        for i, name in enumerate(names)
    ]
    return draw(st.permutations(tasks))


@given(acyclic())
def test_order_puts_every_task_after_what_it_needs(tasks: list[Task]) -> None:
    plan = Plan(tasks=tuple(tasks))
    place = {task.id: i for i, task in enumerate(plan.order)}
    assert sorted(place) == sorted(task.id for task in tasks)
    assert all(place[need] < place[task.id] for task in tasks for need in task.needs)
    assert plan.sinks
    assert not {sink.id for sink in plan.sinks} & {need for task in tasks for need in task.needs}


@given(acyclic(), st.data())
def test_closing_a_path_to_a_circle_is_refused_and_the_circle_is_named(tasks: list[Task], data: st.DataObject) -> None:
    plan = Plan(tasks=tuple(tasks))
    last = data.draw(st.sampled_from(plan.order))
    above = {last.id}
    for task in reversed(plan.order):
        if task.id in above:
            above |= set(task.needs)
    first = data.draw(st.sampled_from(sorted(above)))
    bent = [task.model_copy(update={"needs": (*task.needs, last.id)}) if task.id == first else task for task in tasks]
    with pytest.raises(PlanError, match="cycle") as caught:
        Plan(tasks=tuple(bent))
    walk = str(caught.value).rpartition(": ")[2].rstrip(".").split(" -> ")
    needs = {task.id: task.needs for task in bent}
    assert walk[0] == walk[-1]
    assert all(before in needs[after] for before, after in itertools.pairwise(walk))


@given(acyclic())
def test_a_plan_survives_json(tasks: list[Task]) -> None:
    plan = Plan(tasks=tuple(tasks))
    assert Plan.model_validate(plan.model_dump(mode="json", exclude_defaults=True)) == plan
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([Task(id="a"), Task(id="a")], "Two tasks of the plan are called 'a'"),
        ([Task(id="a", needs=("b",))], "'a' needs 'b', which is not a task"),
        ([Task(id="a", needs=("a",))], "cycle: a -> a"),
        ([Task(id="a"), Task(id="b", optional=frozenset({"a"}))], "does not need them"),
    ],
)
def test_what_a_plan_refuses(tasks: list[Task], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan(tasks=tuple(tasks))


def test_unwrap_returns_the_output_or_says_why_there_is_none() -> None:
    good = Result(task="a", status=Status.SUCCEEDED, output=3, agent="x", started=now(), ended=now())
    assert good.unwrap() == 3
    bad = Result(task="a", status=Status.FAILED, error="no luck", started=now(), ended=now())
    with pytest.raises(TaskUnsuccessful, match="a failed: no luck"):
        bad.unwrap()
