"""Workflows: declared as a LangGraph state graph of agents, compiled to a LangGraph graph without barriers.

This is the only module that builds a LangGraph graph. Information flow is kept in a table of needs of our own;
LangGraph gets the supervisor, one node per agent, and the gatherer that leads back (see `supervisor`).
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

from langgraph.graph import END, START, StateGraph

from checkpoints import SQLAlchemySaver
from orchestra.agents import Agent, Parameter, Team, bind, produces, stands_in, type_name
from orchestra.blueprint import PERSON, Blueprint
from orchestra.budgets import Budget, ModelTerms
from orchestra.claims import Conflict
from orchestra.conduct import Approving, People, Reviewing
from orchestra.errors import WorkflowError
from orchestra.graph import CompiledWorkflow
from orchestra.ownstate import own_keys
from orchestra.planners import Reviewer
from orchestra.planning import Planner, check_plan, plan_from_edges, plan_from_types
from orchestra.policies import Arbiter, AskPerson, Policy, Prefer, Verdict
from orchestra.routing import Embed, Router
from orchestra.shown import Shown
from orchestra.state import make_schema
from orchestra.supervisor import Supervisor
from orchestra.tasknode import TaskNode
from orchestra.tasks import Plan, Review
from orchestra.values import Comparing

_RESERVED = frozenset({"supervisor", "gather", PERSON})


class Workflow(Shown, StateGraph[Any, Any, Any, Any]):
    """A team of agents and whose output flows to whom.

    Where there are edges, they are the information flow, and every agent that is neither a spare nor a reviewer is a
    task. Without edges the flow follows from the agents' types; with a `planner`, each request gets a plan of its own.

    Args:
        name: The workflow's name.
        agents: Its agents; more can be added with `add_agent`.
        planner: Makes a plan for each request.
        output: The wanted output type; only agents that it takes are then made tasks. Without edges only.
        inputs: Types that come from outside when this workflow is a team in another.
        check: Called with each request before anything is stored; raises `RequestError` for one that can't be done.
        example: A request to try the workflow with.
        state_schema: A state schema of the user's own, on top of Orchestra's keys: a TypedDict, a dataclass or a
            pydantic model. Agents see it as `Assignment.state` and update it beside their output.
        history: How many earlier turns agents see, with their messages; all by default.
        max_tasks: How many tasks a plan may have.
        reviewer: Judges the finished work of each turn, and may add tasks; see `ModelReviewer`.
        budget: What a turn may take; it ends with what it has when that is used up.
        user_budget: What all turns of a user may take in a day, in UTC; kept in the store. `seconds` is for runs only.
        models: Prices and rate limits by the model's name, as its client has it.
        max_handed_on: How often agents may hand on work in one turn; see `Delegate`.
        embed: Replaces n-grams as routing's measure of similarity.
        people: When a person is asked, besides the approvals and conflicts that are declared.
        settle: How contradictions between agents' claims are settled: `ByMajority`, `ByConfidence`, `ByTrust`,
            `ByRecency`, `Prefer`, `Arbiter`, `AskPerson`; each is tried where those before it could not decide. Without
            any, contradictions are told in the answer.
        comparing: How claims are compared: tolerances, other names, rates of currencies.

    Raises:
        WorkflowError: The declaration is wrong; raised here, by the `add_` methods, or by `compile`.
    """

    def __init__(
        self,
        name: str,
        agents: Iterable[Agent] = (),
        *,
        planner: Planner | None = None,
        output: Any = None,
        inputs: Sequence[type] = (),
        check: Callable[[str], None] | None = None,
        example: str = "",
        state_schema: Any = None,
        history: int | None = None,
        max_tasks: int = 10_000,
        reviewer: Reviewer | None = None,
        budget: Budget | None = None,
        user_budget: Budget | None = None,
        models: Mapping[str, ModelTerms] | None = None,
        max_handed_on: int = 16,
        embed: Embed | None = None,
        people: People = People(),  # noqa: B008 -- frozen
        settle: Sequence[Policy | Arbiter | AskPerson] = (),
        comparing: Comparing = Comparing(),  # noqa: B008 -- frozen
    ) -> None:
        if not re.fullmatch(r"[\w.-]+", name):
            raise WorkflowError(f"{name!r} can't name a workflow: use letters, digits, '_', '-' and '.'.")
        plans: Any = planner  # users' code is not type-checked
        if plans is not None and not callable(getattr(plans, "plan", None)):
            raise WorkflowError(
                f"Workflow {name!r}: a planner is an object with a method plan(request, *, agents, messages), "
                f"not a {type(plans).__name__}."
            )
        self.name = name
        self.planner, self.reviewer = planner, reviewer
        self.budget, self.user_budget = budget, user_budget
        self.models = dict(models or {})
        self.check, self.people = check, people
        self._policies = _policies(name, settle)
        self._comparing = comparing
        self._max_handed_on = max_handed_on
        if user_budget is not None and user_budget.seconds is not None:
            raise WorkflowError(f"Workflow {name!r}: seconds are for the budget of a run, not for user_budget.")
        self.example = example
        self.roster: dict[str, Agent] = {}
        self.defined_in: str = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- as namedtuple does
        self._wanted = output
        self._inputs = {type_name(kind): kind for kind in inputs}
        self._needs: dict[str, dict[str, bool]] = {}
        self._backups: dict[str, list[str]] = {}
        self._reviews: dict[str, tuple[str, int]] = {}
        self._approvals: dict[str, Approving] = {}
        self._fallbacks: list[str] = []
        self._replicas: dict[str, dict[str, Any]] = {}
        self._max_tasks = max_tasks
        self._embed = embed
        if history is not None and history < 0:
            raise WorkflowError(f"Workflow {name!r}: history must not be negative, not {history}.")
        self._history = history
        self._own = own_keys(name, state_schema)
        super().__init__(make_schema(lambda: self.roster, self._own.annotations))
        for agent in agents:
            self.add_agent(agent)

    # Declaration

    def add_agent(self, agent: Agent, *, backup_for: str | None = None) -> Workflow:
        """Add an agent; with `backup_for`, as a spare that steps in when the named agent fails, or with "*" for anyone.

        Raises:
            WorkflowError: The name is taken or reserved, or `backup_for` names nobody.
        """
        if not isinstance(agent, Agent):  # pyright: ignore[reportUnnecessaryIsInstance] -- users' code is not checked
            raise WorkflowError(f"{agent!r} is not an Agent; decorate the function with @agent, or use add_node.")
        if agent.name in self.roster or agent.name in _RESERVED:
            taken = "Orchestra needs that name itself" if agent.name in _RESERVED else "the name is taken"
            raise WorkflowError(f"Workflow {self.name!r} can't add agent {agent.name!r}: {taken}.")
        if backup_for == "*":
            self._fallbacks.append(agent.name)
        elif backup_for is not None:
            self._known(backup_for, "backup_for")
            self._backups.setdefault(backup_for, []).append(agent.name)
        self.roster[agent.name] = agent
        return self

    def add_node(self, node: Any, action: Any = None, **options: Any) -> Workflow:  # pyright: ignore[reportIncompatibleMethodOverride] -- the same name, our options
        """Add an agent under LangGraph's name for it; the options are those of `Agent`."""
        if isinstance(node, Agent):
            return self.add_agent(node)
        if action is None:
            node, action = node.__name__, node
        return self.add_agent(action if isinstance(action, Agent) else Agent(node, action, **options))

    def add_edge(self, start_key: str | list[str], end_key: str, *, optional: bool = False) -> Workflow:  # pyright: ignore[reportIncompatibleMethodOverride] -- one option more
        """Let output flow from one agent, or several, to another, which waits for all of them.

        START and END are accepted and change nothing: what needs nobody starts at once.

        Args:
            start_key: Whose output; a list means all of them.
            end_key: Who receives it.
            optional: The receiver can do without: it runs even if the other failed.

        Raises:
            WorkflowError: An agent is unknown, or an agent would need itself.
        """
        starts = [start_key] if isinstance(start_key, str) else start_key
        for start in starts:
            if start == START or end_key == END:
                self._known(end_key if start == START else start, "add_edge")
                continue
            self._known(start, "add_edge")
            self._known(end_key, "add_edge")
            if start == end_key:
                raise WorkflowError(f"Agent {start!r} can't need its own output; for rounds of rework use add_review.")
            self._needs.setdefault(end_key, {})[start] = optional
        return self

    def add_review(self, author: str, *, by: str, rounds: int = 1) -> Workflow:
        """Have an agent's work reviewed: rejected work goes back at most `rounds` times.

        The reviewer returns a `Review`. It receives the author's inputs and the draft, by type. It is not a task of
        its own; the rounds happen inside the author's task.

        Raises:
            WorkflowError: An agent is unknown, has a review already, or is a team.
        """
        for name in (author, by):
            self._known(name, "add_review")
            if self.roster[name].is_team:
                raise WorkflowError(f"{name!r} is a team, which is called once per task: put the review inside it.")
        if author in self._reviews:
            raise WorkflowError(f"Agent {author!r} is reviewed by {self._reviews[author][0]!r} already.")
        if author == by:
            raise WorkflowError(f"Agent {author!r} can't review itself.")
        if rounds < 0:
            raise WorkflowError(f"rounds must not be negative, not {rounds}.")
        self._reviews[author] = (by, rounds)
        return self

    def add_approval(
        self,
        name: str,
        *,
        before: bool | None = None,
        rounds: int = 3,
        within: timedelta | None = None,
        otherwise: Literal["approve", "reject", "skip"] = "reject",
    ) -> Workflow:
        """Have a person approve an agent's work. The run does what does not depend on it, then waits at no cost.

        Args:
            name: The agent.
            before: Ask before it begins; by default for agents with side effects. Else the person sees its output, may
                edit it, or reject it with a reason, and it is done again.
            rounds: How often rejected work goes back at most.
            within: How long to wait for the person; by default as long as it takes.
            otherwise: What is decided then.

        Raises:
            WorkflowError: The agent is unknown, or has an approval already.
        """
        self._known(name, "add_approval")
        if name in self._approvals:
            raise WorkflowError(f"Agent {name!r} has an approval already.")
        if rounds < 0 or (within is not None and within <= timedelta()):
            raise WorkflowError(f"add_approval({name!r}): rounds must not be negative, and within must be above zero.")
        first = self.roster[name].side_effects if before is None else before
        self._approvals[name] = Approving(before=first, rounds=rounds, within=within, otherwise=otherwise)
        return self

    def add_replicas(self, name: str, replicas: int, *, quorum: int | None = None) -> Workflow:
        """Give an agent's task to several agents at once: it, its backups, and whoever shares its capability.

        Args:
            name: The agent.
            replicas: How many do the task, each on its own. What they claim is compared, and settled as declared.
            quorum: How many of them must deliver, and, where nothing is claimed, agree; by default more than half.

        Raises:
            WorkflowError: The agent is unknown, or the numbers don't go together.
        """
        self._known(name, "add_replicas")
        if not 2 <= replicas <= 9 or (quorum is not None and not 1 <= quorum <= replicas):
            raise WorkflowError(f"add_replicas({name!r}): from 2 to 9 replicas, and a quorum of at most as many.")
        self._replicas[name] = {"replicas": replicas, "quorum": quorum}
        return self

    def add_conditional_edges(self, *_: Any, **__: Any) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride] -- refused on purpose
        """Refused: in Orchestra a plan decides what runs.

        Raises:
            WorkflowError: Always, with the alternatives.
        """
        raise WorkflowError(
            "A workflow has no conditional edges: the plan decides what runs. Use planner=… for a plan per request, "
            "add_review for rounds of rework, backup_for for failures, or an optional edge for inputs that may be "
            "missing."
        )

    def _known(self, name: str, where: str) -> None:
        if name not in self.roster:
            there = ", ".join(self.roster) or "nobody yet"
            raise WorkflowError(f"{where}: workflow {self.name!r} has no agent {name!r}; it has {there}.")

    # What a parent workflow, the terminal and pictures want to know

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What this workflow, as a team, wants from its parent's tasks."""
        return tuple(Parameter(name, kind) for name, kind in self._inputs.items())

    @property
    def output(self) -> Any:
        """The type of what this workflow, as a team, delivers: its last task's output, or the answer's text."""
        if self.planner is not None:
            return str
        sinks = self.make_plan().sinks
        return self.roster[sinks[0].id].output if len(sinks) == 1 else str

    @property
    def defaults(self) -> dict[str, Any]:
        """What the user's own keys of the state begin with on a new thread."""
        return copy.deepcopy(dict(self._own.defaults))

    @property
    def side_effects(self) -> bool:
        """Whether one of its agents changes the world outside."""
        return any(agent.side_effects for agent in self.roster.values())

    @property
    def reference(self) -> str:
        """Where it lives, as `file.py:variable`, so that a run can be resumed by its thread alone; empty if unknown."""
        module = sys.modules.get(self.defined_in)
        file = getattr(module, "__file__", None)
        names = [name for name, value in vars(module).items() if value is self] if module and file else []
        return f"{Path(cast('str', file)).resolve()}:{names[0]}" if names else ""

    @property
    def backups(self) -> dict[str, tuple[str, ...]]:
        """Spares by the agent they step in for, in order."""
        return {name: tuple(spares) for name, spares in self._backups.items()}

    @property
    def reviews(self) -> dict[str, tuple[str, int]]:
        """By whom an author's work is reviewed, and how often it may go back."""
        return dict(self._reviews)

    @property
    def task_agents(self) -> list[Agent]:
        """The agents that are tasks of their own: all but spares and reviewers."""
        aside = {*self._fallbacks, *(spare for spares in self._backups.values() for spare in spares)}
        aside |= {by for by, _ in self._reviews.values()}
        aside |= self._arbiters
        return [agent for agent in self.roster.values() if agent.name not in aside]

    def make_plan(self) -> Plan:
        """Make the plan that does not depend on the request.

        Raises:
            WorkflowError: The flow does not add up; the message names the agent, the parameter and the candidates.
        """
        self._settle()
        agents = self.task_agents
        if not agents:
            raise WorkflowError(f"Workflow {self.name!r} has no agent to give a task to.")
        if both := self._inputs.keys() & self.roster.keys():
            raise WorkflowError(f"{min(both)!r} names an input type and an agent; rename the agent.")
        if self._needs:
            aside = self.roster.keys() - {agent.name for agent in agents}
            for end, starts in self._needs.items():
                if strays := aside & {end, *starts}:
                    raise WorkflowError(f"{min(strays)!r} is a spare or a reviewer and can't have edges.")
            plan = plan_from_edges(agents, self._needs, self._inputs)
        else:
            plan = plan_from_types(agents, self._wanted, self._inputs)
        if self._replicas:
            tasks = (task.model_copy(update=self._replicas.get(task.id, {})) for task in plan.tasks)
            plan = plan.model_copy(update={"tasks": tuple(tasks)}).checked()
        return check_plan(plan, self.roster, limit=self._max_tasks)

    def _settle(self) -> None:
        for agent in self.roster.values():
            agent.settle()

    # Compilation

    def compile(self, checkpointer: Any = None, **options: Any) -> CompiledWorkflow:  # pyright: ignore[reportIncompatibleMethodOverride] -- options are handed on as they are
        """Check the declaration and return a LangGraph graph that runs it.

        Args:
            checkpointer: A saver; `None` inherits the parent graph's, `False` keeps nothing.
            options: As of LangGraph's `StateGraph.compile`.

        Raises:
            WorkflowError: The declaration does not add up.
        """
        blueprint = self._blueprint()
        nodes = (*self.roster, *((PERSON,) if self.people.unable else ()))
        graph: Any = StateGraph(self.state_schema)
        graph.add_node("supervisor", Supervisor(blueprint), destinations=(*nodes, "gather", END))
        graph.add_node("gather", _gather)
        for name in nodes:
            graph.add_node(name, TaskNode(blueprint), input_schema=dict)
        graph.add_edge(START, "supervisor")
        graph.add_edge("gather", "supervisor")
        options.setdefault("name", self.name)
        if self._own.types and isinstance(checkpointer, SQLAlchemySaver):
            checkpointer = checkpointer.with_allowlist([(each.__module__, each.__name__) for each in self._own.types])
        compiled = cast("CompiledWorkflow", graph.compile(checkpointer=checkpointer, **options))
        compiled.__class__ = CompiledWorkflow
        compiled.builder = self
        return compiled

    def _blueprint(self) -> Blueprint:
        self._settle()
        for policy in self._policies:
            if isinstance(policy, Arbiter | Prefer) and policy.agent != "a person":
                self._known(policy.agent, "settle")
        for principal, spares in self._backups.items():
            for spare in spares:
                if not stands_in(self.roster[spare], self.roster[principal]):
                    raise WorkflowError(
                        f"{spare!r} can't be a backup for {principal!r}: it delivers "
                        f"{type_name(self.roster[spare].output)}, not {type_name(self.roster[principal].output)}."
                    )
        plan = self.make_plan() if self.planner is None else None
        if self.planner is not None and not self.roster:
            raise WorkflowError(f"Workflow {self.name!r} has no agent.")
        reviews = {
            author: Reviewing(
                reviewers=(self.roster[by], *(self.roster[spare] for spare in self._backups.get(by, ()))),
                rounds=rounds,
            )
            for author, (by, rounds) in self._reviews.items()
        }
        aside = {*self._fallbacks, *self._arbiters, *(by for by, _ in self._reviews.values())}
        blueprint = Blueprint(
            name=self.name,
            roster=dict(self.roster),
            router=Router((a for a in self.roster.values() if a.name not in aside), self._backups, self._embed),
            plan=plan,
            planner=self.planner,
            given=dict(self._inputs),
            reviews=reviews,
            approvals=dict(self._approvals),
            people=self.people,
            policies=self._policies,
            comparing=self._comparing,
            fallbacks=tuple(self._fallbacks),
            teams={name: agent.run.compile() for name, agent in self.roster.items() if isinstance(agent.run, Team)},
            max_tasks=self._max_tasks,
            history=self._history,
            own={key: cast("Any", self.channels[key]) for key in self._own.annotations},
            own_plan=self.make_plan,
            reviewer=self.reviewer,
            max_handed_on=self._max_handed_on,
            spares=frozenset((*self._fallbacks, *(each for spares in self._backups.values() for each in spares))),
        )
        self._check_reviewers(blueprint)
        return blueprint

    @property
    def _arbiters(self) -> set[str]:
        return {policy.agent for policy in self._policies if isinstance(policy, Arbiter)}

    def _check_reviewers(self, blueprint: Blueprint) -> None:
        """See that reviewers and arbiters return what they are to, and can be given what they ask for."""
        for arbiter in self._arbiters:
            if not produces(self.roster[arbiter].output, Verdict):
                raise WorkflowError(
                    f"Arbiter {arbiter!r} must return a Verdict, not {type_name(self.roster[arbiter].output)}: "
                    "annotate it with -> Verdict."
                )
            bind(self.roster[arbiter], {"conflict": Conflict}, where="before an arbiter")
        for author, review in blueprint.reviews.items():
            for reviewer in review.reviewers:
                if not produces(reviewer.output, Review):
                    raise WorkflowError(
                        f"Reviewer {reviewer.name!r} must return a Review, not {type_name(reviewer.output)}: "
                        "annotate it with -> Review."
                    )
                if blueprint.plan is not None and (task := blueprint.plan.by_id.get(author)) is not None:
                    seen = blueprint.types_into(task, blueprint.plan) | {author: self.roster[author].output}
                    bind(reviewer, seen, where="among the author's inputs and the draft", first=author)

    def __repr__(self) -> str:
        """Show the name and the agents."""
        return f"Workflow({self.name!r}, agents=[{', '.join(self.roster)}])"


def _policies(name: str, settle: Any) -> tuple[Any, ...]:
    """See that what settles contradictions are policies; users' code is not type-checked."""
    given: list[Any] = [*cast("Sequence[Any]", settle)] if isinstance(settle, list | tuple) else [None]
    for each in given:
        settles = callable(getattr(each, "settle", None)) and isinstance(getattr(each, "name", None), str)
        if isinstance(each, type) or not (settles or isinstance(each, Arbiter | AskPerson)):
            raise WorkflowError(
                f"Workflow {name!r}: settle takes a list of policies, [ByMajority(), AskPerson()], not {settle!r}."
            )
    return tuple(given)


def _gather(_: Any) -> dict[str, Any]:
    """Do nothing: the edge behind this node leads the superstep back to the supervisor.

    One node writes that edge instead of every task, because LangGraph keeps and scans all writes of a superstep.
    """
    return {}
