"""The supervisor: plans a turn, sends all its tasks at once, and composes the answer.

Who waits for whom is settled inside the superstep (`dataflow`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import Command, Overwrite, Send

from orchestra.blueprint import PERSON, Blueprint, call_of, user_of
from orchestra.closing import raised, settled
from orchestra.context import context, turn_id
from orchestra.dataflow import Call, Turn
from orchestra.errors import AgentError, NoPlan, PlanError, WorkflowError
from orchestra.events import Event, PlanReady, TaskEnded, TurnEnded, WorkReviewed
from orchestra.memory import Memory
from orchestra.metering import Scope
from orchestra.node import Node
from orchestra.planners import Briefing, Reviewer, goes_round
from orchestra.retrying import describe
from orchestra.state import PastTurn, Results, answer_id, encode_result, is_planned
from orchestra.tasks import Judgement, Plan, Result, Status, aborted, failure, grown, now, text_of, unlike


class Supervisor:
    """Plans a turn, sends its tasks, has the work reviewed, and composes the answer."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint

    async def __call__(self, state: dict[str, Any], config: RunnableConfig, runtime: Runtime[Any]) -> Command[Any]:
        """Send every task that has no result yet, or finish the turn."""
        call = call_of(config)
        call.tell_by(runtime.stream_writer)
        desk = _Desk(self._blueprint, call, state, config, runtime)
        if call.tape is not None:
            call.tape.begin(turn_id(state))
        update: dict[str, Any] = {}
        results: dict[str, Result] = {}
        if not is_planned(state):
            call.counted = True
            plan = await desk.plan()
            update = _new_turn(state, plan)
            state = {**state, "halfway": {}}
        else:
            plan, results = await desk.go_on(state.get("results") or {})
            if plan is not state["plan"]:
                update["plan"] = _stored(plan)
            if len(results) < len(state.get("results") or {}):  # some are done again
                kept = {task: encode_result(result, self._blueprint.roster) for task, result in results.items()}
                update["results"] = Overwrite(kept)
        sends, unable = self._sends(plan, results, desk)
        if unable or "turn" in update:
            raw = {task: encode_result(result, self._blueprint.roster) for task, result in unable.items()}
            if "results" in update:
                raw = {**update["results"].value, **raw}
            update["results"] = Overwrite(raw) if update.keys() & {"turn", "results"} else raw
        results = {**results, **unable}
        if sends:
            desk.emit(PlanReady, {"plan": plan, "finished": results})
            call.begin(await desk.turn(plan, results, {**state, **update}))
            return Command(update=update, goto=[*sends, "gather"])
        answer = compose(plan, results, call.funds.used_up)
        desk.emit(TurnEnded, {"answer": answer})
        message = AIMessage(answer, id=answer_id(state.get("asked", "")))
        return Command(update={**update, "answer": answer, "messages": [message]})

    def _sends(
        self, plan: Plan, results: Mapping[str, Result], desk: _Desk
    ) -> tuple[list[Send | str], dict[str, Result]]:
        """One Send for each task without a result; results for those that nobody can do."""
        sends: list[Send | str] = []
        unable: dict[str, Result] = {}
        for task in plan.order:
            if task.id in results:
                continue
            able = self._blueprint.candidates(task)
            if able or self._blueprint.people.unable:
                sends.append(Send(able[0].name if able else PERSON, {"task": task.id}))
                continue
            moment, why = now(), self._blueprint.router.choose(task).reason
            unable[task.id] = Result(task=task.id, status=Status.FAILED, error=why, started=moment, ended=moment)
            desk.emit(TaskEnded, {"task": task.id, "result": unable[task.id]})
        return sends, unable


@dataclass(frozen=True, slots=True)
class _Desk:
    """What the supervisor works with in one call."""

    blueprint: Blueprint
    call: Call
    state: Mapping[str, Any]
    config: RunnableConfig
    runtime: Runtime[Any]

    async def go_on(self, results: dict[str, Result]) -> tuple[Plan, dict[str, Result]]:
        """Look at what has been done of a turn; return its plan, and the results that stand."""
        call = self.call
        plan = grown(self.state["plan"], (each for result in results.values() for each in result.added))
        if not call.counted:
            call.counted = True
            call.funds.book_earlier(self.blueprint.roster, plan, results.values())
            call.handed_on = sum(len(result.added) for result in results.values())
        node = Node(self.blueprint, call, self.config, self.runtime, cast("ExecutionInfo", self.runtime.execution_info))
        call.funds.extend(plan.raised)
        call.halt.why = call.halt.why or aborted(results.values())
        if all(task.id in results for task in plan.tasks):
            plan, again = await settled(node, await self.turn(plan, results))
            if again:
                return plan, {task: result for task, result in results.items() if task not in again}
            plan = await self.review(plan, results)
        elif self.blueprint.people.budget and not plan.capped and call.funds.own_used_up:
            plan = await raised(node, await self.turn(plan, results))
            call.funds.extend(plan.raised)
        return plan, results

    def emit(self, kind: type[Event], what: Mapping[str, Any]) -> None:
        self.runtime.stream_writer(kind(path=self.call.path, **what))

    async def turn(self, plan: Plan, results: Mapping[str, Result], values: Mapping[str, Any] | None = None) -> Turn:
        """What the tasks of the turn share."""
        state = self.state if values is None else values
        return Turn(
            id=turn_id(state),
            request=self.state["request"],
            plan=plan,
            results=results,
            given=self.state.get("given") or {},
            halfway=self.state.get("halfway") or {},
            **await context(self.blueprint, state, self.runtime.store, user_of(self.config)),
        )

    def _scope(self, who: str, number: int = 1) -> Scope:
        call = self.call
        return Scope(
            task="",
            agent=who,
            key="/".join((*call.path, who, str(number))),
            path=call.path,
            account=call.funds.account,
            purse=call.funds,
            terms=call.funds.terms,
            emit=self.emit,
            tape=call.tape,
        )

    async def plan(self) -> Plan:
        """Make the turn's plan.

        Raises:
            PlanError: There is none that can be carried out.
        """
        blueprint = self.blueprint
        if blueprint.plan is not None:
            return blueprint.plan
        assert blueprint.planner is not None  # noqa: S101 -- compile gave one or the other
        offered = {
            "agents": blueprint.team,
            "messages": self.state.get("messages") or (),
            "known": await self._known(),
            "limit": blueprint.max_tasks,
            "check": blueprint.check,
        }
        with self._scope("planner") as scope:
            try:
                made: Any = blueprint.planner.plan(self.state["request"], **wanted_by(blueprint.planner.plan, offered))
                plan = blueprint.check(await made if inspect.isawaitable(made) else made)
            except NoPlan as error:
                plan = self._stand_in(error)
        return plan.model_copy(update={"usage": plan.usage + scope.usage, "notes": (*plan.notes, *scope.notes)})

    def _stand_in(self, error: NoPlan) -> Plan:
        """The workflow's own plan, where the planner has none."""
        try:
            plan = self.blueprint.own_plan()
        except WorkflowError as other:
            raise PlanError(f"{error} Nor does the workflow itself have one: {other}") from error
        return plan.model_copy(update={"repairs": (f"{error}; so the plan follows from the {plan.made_by}",)})

    async def review(self, plan: Plan, results: Mapping[str, Result]) -> Plan:
        """Have the finished work judged; return the plan with the judgement, and with the tasks that it adds."""
        reviewer = self.blueprint.reviewer
        if reviewer is None or not self._may_judge(reviewer, plan, results):
            return plan
        blueprint, number = self.blueprint, len(plan.judgements) + 1
        briefing = Briefing(
            agents=blueprint.team,
            messages=self.state.get("messages") or (),
            known=await self._known(),
            limit=blueprint.max_tasks,
            check=blueprint.check,
        )
        with self._scope("reviewer", number) as scope:
            try:
                judgement, added = await reviewer.judge(self.state["request"], plan, results, briefing)
            except AgentError as error:  # the work stands without it
                judgement, added = Judgement(answered=None, missing=(f"not reviewed: {describe(error)}",)), ()
        if number > reviewer.rounds:
            judgement, added = judgement.model_copy(update={"added": ()}), ()
        self.emit(WorkReviewed, {"judgement": judgement})
        return plan.model_copy(
            update={
                "tasks": (*plan.tasks, *added),
                "judgements": (*plan.judgements, judgement),
                "usage": plan.usage + scope.usage,
                "notes": (*plan.notes, *scope.notes),
            }
        ).checked()

    def _may_judge(self, reviewer: Reviewer, plan: Plan, results: Mapping[str, Result]) -> bool:
        """Whether there is anything to judge that was not judged yet."""
        said = plan.judgements
        return not said or (len(said) <= reviewer.rounds and bool(said[-1].added) and not goes_round(plan, results))

    async def _known(self) -> dict[str, Any]:
        store, user = self.runtime.store, user_of(self.config)
        memos = await Memory(store, user).all() if store is not None and user else []
        return {memo.key: memo.value for memo in memos}


def wanted_by(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some arguments that a function takes."""
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return dict(offered)
    return {name: value for name, value in offered.items() if name in parameters}


def _stored(plan: Plan) -> dict[str, Any]:
    return plan.model_dump(mode="json", exclude_defaults=True)


def _new_turn(state: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """What starts a turn: the plan, no results, and the last turn put into the history."""
    update: dict[str, Any] = {
        "plan": _stored(plan),
        "planned": {key: state.get(key, "") for key in ("asked", "opening", "request")},
        "turn": state.get("turn", 0) + 1,
        "answer": None,
        "halfway": Overwrite({}),
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


def compose(plan: Plan, results: Mapping[str, Result], used_up: Sequence[str] = ()) -> str:
    """Write the answer: what the plan's last tasks produced, and what is missing and why.

    Args:
        plan: The plan.
        results: How its tasks ended.
        used_up: A line for each budget that was hit.
    """
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
    if settled := unlike(plan, results.values()):
        parts.append("\n".join(["Agents contradicted each other:", *(f"- {each.text}" for each in settled)]))
    if plan.judgements and not (last := plan.judgements[-1]).answered:
        parts.append(_judged(last))
    if used_up:
        parts.append("\n".join(["A budget was hit:", *(f"- {line}" for line in used_up)]))
    return "\n\n".join(parts)


def _judged(last: Judgement) -> str:
    """What a review had against the work."""
    if last.answered is None:
        return f"This work was {'; '.join(last.missing)}"
    lines = [f"- missing: {each}" for each in last.missing] + [f"- contradicts: {each}" for each in last.contradictions]
    return "\n".join(["The review of this work found:", *(lines or ["- the request is not answered"])])
