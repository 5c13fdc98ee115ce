"""The supervisor: plans a turn, sends all its tasks at once, and composes the answer.

Who waits for whom is settled inside the superstep (`dataflow`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite, Send

from orchestra.agents import bind
from orchestra.blueprint import Blueprint, call_of, user_of
from orchestra.context import context, turn_id
from orchestra.dataflow import Turn
from orchestra.errors import PlanError, WorkflowError
from orchestra.events import PlanReady, TaskEnded, TurnEnded
from orchestra.outputs import text_of
from orchestra.planning import check_plan
from orchestra.state import PastTurn, Results, answer_id, encode_result, is_planned
from orchestra.tasks import Plan, Result, Status, failure, now


class Supervisor:
    """Plans a turn, sends its tasks, and composes the answer."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def __call__(self, state: dict[str, Any], config: RunnableConfig, runtime: Runtime[Any]) -> Command[Any]:
        """Send every task that has no result yet, or finish the turn."""
        call = call_of(config)
        update: dict[str, Any] = {}
        results: dict[str, Result] = state.get("results") or {}
        if not is_planned(state):
            plan = await self._plan(state)
            update = self._new_turn(state, plan)
            results = {}
        else:
            plan = cast("Plan", state["plan"])
        emit = runtime.stream_writer
        sends: list[Send | str] = []
        unable: dict[str, Result] = {}
        for task in plan.order:
            if task.id in results:
                continue
            choice = self._blueprint.router.choose(task)
            if choice.agents:
                sends.append(Send(choice.agents[0], {"task": task.id}))
            else:
                moment = now()
                unable[task.id] = Result(
                    task=task.id, status=Status.FAILED, error=choice.reason, started=moment, ended=moment
                )
                emit(TaskEnded(path=call.path, task=task.id, result=unable[task.id]))
        results = {**results, **unable}
        if unable or update:
            raw = {task: encode_result(result, self._blueprint.roster) for task, result in unable.items()}
            update["results"] = Overwrite(raw) if update else raw
        if sends:
            emit(PlanReady(path=call.path, plan=plan, finished=results))
            call.begin(
                Turn(
                    id=turn_id({**state, **update}),
                    request=state["request"],
                    plan=plan,
                    results=results,
                    given=state.get("given") or {},
                    **await context(self._blueprint, {**state, **update}, runtime.store, user_of(config)),
                )
            )
            return Command(update=update, goto=[*sends, "gather"])
        answer = compose(plan, results)
        emit(TurnEnded(path=call.path, answer=answer))
        message = AIMessage(answer, id=answer_id(state.get("asked", "")))
        return Command(update={**update, "answer": answer, "messages": [message]})

    async def _plan(self, state: Mapping[str, Any]) -> Plan:
        blueprint = self._blueprint
        if blueprint.plan is not None:
            return blueprint.plan
        assert blueprint.planner is not None  # noqa: S101 -- compile gave one or the other
        reviewers = {agent.name for review in blueprint.reviews.values() for agent in review.reviewers}
        agents = [blueprint.roster[name] for name in sorted(blueprint.roster.keys() - reviewers)]
        made: Any = blueprint.planner.plan(state["request"], agents=agents, messages=state.get("messages") or ())
        plan = await made if inspect.isawaitable(made) else made
        if not isinstance(plan, Plan):
            raise PlanError(f"The planner returned a {type(plan).__name__}, not a Plan.")
        check_plan(plan, blueprint.roster, limit=blueprint.max_tasks)
        for task in plan.tasks:
            for agent in blueprint.candidates(task)[:1]:
                try:
                    bind(agent, blueprint.types_into(task, plan))
                except WorkflowError as error:
                    raise PlanError(f"Task {task.id!r} can't be given to {agent.name!r}. {error}") from error
        return plan

    def _new_turn(self, state: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
        """What starts a turn: the plan, no results, and the last turn put into the history."""
        update: dict[str, Any] = {
            "plan": plan.model_dump(mode="json", exclude_defaults=True),
            "planned": {key: state.get(key, "") for key in ("asked", "opening", "request")},
            "turn": state.get("turn", 0) + 1,
            "answer": None,
        }
        if "plan" in state:
            answer: str | None = state.get("answer")
            dropped: list[Any] = state.get("dropped") or []
            past = PastTurn(
                turn=state["turn"],
                opening=state["planned"].get("opening", ""),
                request=state["planned"]["request"],
                answer=answer or "",
                ended="answered" if answer is not None else "superseded" if dropped else "stopped",
                dropped=dropped,
                results=dict(cast("Results", state["results"]).raw),
            )
            update["history"] = [*(state.get("history") or ()), past]
        return update


def compose(plan: Plan, results: Mapping[str, Result]) -> str:
    """Write the answer: what the plan's last tasks produced, and what is missing and why."""
    sinks = [results[task.id] for task in plan.sinks]
    parts = [
        text_of(result.output) if len(sinks) == 1 else f"## {result.task}\n\n{text_of(result.output)}"
        for result in sinks
        if result.ok
    ]
    failed = [result for result in results.values() if result.status is Status.FAILED]
    lost = [result for result in results.values() if result.status is Status.SKIPPED]
    if failed or lost:
        lines = [f"- {failure(r)}" for r in failed] + [f"- {r.task} was skipped: {r.error}" for r in lost]
        parts.append("\n".join(["Missing from this answer:", *lines]))
    return "\n\n".join(parts)
