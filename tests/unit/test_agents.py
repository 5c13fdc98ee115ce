from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from langgraph.types import RetryPolicy
from pydantic import BaseModel

from orchestra import Agent, Assignment, Capability, Review, Workflow, WorkflowError, agent


class Findings(BaseModel):
    facts: list[str]


class Table(BaseModel):
    rows: int


@agent
async def researcher(task: Assignment) -> Findings:
    return Findings(facts=[task.request])


def generator(task: Assignment) -> Iterator[int]:
    yield 1


def test_a_function_becomes_an_agent_with_its_contract() -> None:
    @agent(capabilities=["comparing", Capability("tables", "makes tables", ("a table please",))], timeout=5)
    def comparer(findings: Findings, task: Assignment, note: str | None = None) -> Table:
        """Compare things."""
        return Table(rows=len(findings.facts))

    assert comparer.name == "comparer"
    assert comparer.description == "Compare things."
    assert comparer.output is Table
    assert [(p.name, p.type, p.optional) for p in comparer.parameters] == [
        ("findings", Findings, False),
        ("task", Assignment, False),
        ("note", str, True),
    ]
    assert comparer(Findings(facts=["a"]), None) == Table(rows=1)


def test_one_bare_parameter_is_the_assignment() -> None:
    assert Agent("x", lambda task: task).parameters[0].type is Assignment


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Agent("", lambda t: t), "can't name an agent"),
        (lambda: Agent("a|b", lambda t: t), "can't name an agent"),
        (lambda: Agent("a", lambda t: t, timeout=0), "timeout must be a number above zero"),
        (lambda: Agent("a", lambda x, y: x), "annotate parameter 'x'"),
        (lambda: Agent("a", lambda *things: things), r"\*things can't be bound"),
        (lambda: Agent("a", lambda t: t, timeout="5"), "timeout must be a number"),
        (lambda: Agent("a", lambda t: t, retry=3), "retry must be a RetryPolicy"),
        (lambda: Agent("a", lambda t: t, retry=RetryPolicy(max_attempts=0)), "max_attempts >= 1"),
        (lambda: Agent("a", lambda t, /, u: t), "t can't be bound"),
        (lambda: Agent("a", generator), "a generator has no one output"),
        (lambda: Agent("a", 3), "run must be a function"),
        (lambda: Agent("a", lambda t: t, output=object()), "can't be validated or stored"),
    ],
)
def test_what_an_agent_refuses(make: Any, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        make()


def test_a_type_known_only_to_a_type_checker_is_named() -> None:
    def broken(x: Missing) -> int:  # noqa: F821
        return 1

    with pytest.raises(WorkflowError, match="'Missing' can't be resolved"):
        Agent("broken", broken)


def compile_with(*agents: Agent, edges: list[tuple[str, str]] | None = None, **options: Any) -> Any:
    flow = Workflow("w", agents=agents, **options)
    for start, end in edges or ():
        flow.add_edge(start, end)
    return flow.compile()


def test_an_input_that_nobody_produces_names_agent_parameter_and_candidates() -> None:
    @agent
    async def writer(table: Table) -> str:
        return ""

    with pytest.raises(
        WorkflowError, match=r"'writer', parameter 'table': nobody produces Table .*'researcher' \(Findings\)"
    ):
        compile_with(researcher, writer)
    with pytest.raises(WorkflowError, match="nobody produces Table among its inputs"):
        compile_with(researcher, writer, edges=[("researcher", "writer")])


def test_an_ambiguous_input_names_the_candidates_and_the_remedies() -> None:
    second = Agent("second", researcher.run)

    @agent
    async def writer(findings: Findings) -> str:
        return ""

    with pytest.raises(WorkflowError, match=r"Findings comes from 'researcher', 'second'.*list\[Findings\]"):
        compile_with(researcher, second, writer)

    @agent
    async def by_name(second: Findings) -> str:
        return ""

    @agent
    async def of_all(findings: list[Findings]) -> str:
        return ""

    assert compile_with(researcher, second, by_name).workflow.make_plan().by_id["by_name"].needs == ("second",)
    needs = compile_with(researcher, second, of_all).workflow.make_plan().by_id["of_all"].needs
    assert needs == ("researcher", "second")


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda f: f.add_edge("researcher", "nobody"), "has no agent 'nobody'; it has researcher"),
        (lambda f: f.add_edge("researcher", "researcher"), "can't need its own output"),
        (lambda f: f.add_agent(researcher), "the name is taken"),
        (lambda f: f.add_agent(Agent("supervisor", lambda t: t)), "Orchestra needs that name itself"),
        (lambda f: f.add_agent(print), "is not an Agent"),
        (lambda f: f.add_agent(Agent("x", lambda t: t), backup_for="y"), "backup_for: workflow 'w' has no agent 'y'"),
        (lambda f: f.add_review("researcher", by="researcher"), "can't review itself"),
        (lambda f: f.add_conditional_edges("researcher", print), "has no conditional edges.*planner="),
    ],
)
def test_what_a_workflow_refuses(declare: Any, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        declare(Workflow("w", agents=[researcher]))


def test_edges_in_a_circle_are_refused_at_compile() -> None:
    names = ["a", "b", "c"]
    agents = [Agent(name, lambda t: t) for name in names]
    with pytest.raises(WorkflowError, match="cycle: "):
        compile_with(*agents, edges=[("a", "b"), ("b", "c"), ("c", "a")])


def test_an_empty_workflow_is_refused() -> None:
    with pytest.raises(WorkflowError, match="has no agent"):
        Workflow("w").compile()


def test_types_pull_in_only_what_the_wanted_output_needs() -> None:
    @agent
    async def comparer(findings: Findings) -> Table:
        return Table(rows=1)

    @agent
    async def aside(findings: Findings) -> bytes:
        return b""

    flow = Workflow("w", agents=[aside, comparer, researcher], output=Table)
    plan = flow.make_plan()
    assert [task.id for task in plan.order] == ["researcher", "comparer"]
    assert plan.made_by == "types"
    with pytest.raises(WorkflowError, match="Exactly one agent must produce the wanted float"):
        Workflow("w", agents=[researcher], output=float).compile()


def test_a_backup_must_deliver_what_its_principal_delivers() -> None:
    @agent
    async def other(task: Assignment) -> Table:
        return Table(rows=1)

    flow = Workflow("w", agents=[researcher]).add_agent(other, backup_for="researcher")
    with pytest.raises(
        WorkflowError, match="'other' can't be a backup for 'researcher': it delivers Table, not Findings"
    ):
        flow.compile()


def test_a_reviewer_must_return_a_review_and_be_given_what_it_asks_for() -> None:
    @agent
    async def says_yes(draft: Findings) -> bool:
        return True

    @agent
    async def wants_more(draft: Findings, table: Table) -> Review:
        return Review(approved=True)

    for reviewer, message in ((says_yes, "must return a Review, not bool"), (wants_more, "nobody produces Table")):
        flow = Workflow("w", agents=[researcher, reviewer]).add_review("researcher", by=reviewer.name)
        with pytest.raises(WorkflowError, match=message):
            flow.compile()


def test_an_optional_edge_into_a_parameter_that_needs_it_is_refused() -> None:
    @agent
    async def strict(findings: Findings) -> str:
        return ""

    flow = Workflow("w", agents=[researcher, strict]).add_edge("researcher", "strict", optional=True)
    with pytest.raises(WorkflowError, match="is optional, but the parameter it fills is not"):
        flow.compile()


def test_types_that_do_not_support_issubclass_are_no_obstacle() -> None:
    class Shape(Protocol):
        sides: int

    @agent
    async def either(x: Findings | Table, shape: Shape | None = None) -> str:
        return ""

    assert compile_with(researcher, either).workflow.make_plan().by_id["either"].needs == ("researcher",)


@pytest.mark.parametrize("planner", [lambda request: None, object()])
def test_a_planner_has_a_method_plan(planner: Any) -> None:
    with pytest.raises(WorkflowError, match=r"an object with a method plan\("):
        Workflow("w", agents=[researcher], planner=planner)
