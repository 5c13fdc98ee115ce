"""What is kept and what runs again when a turn is taken up from an earlier moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestra.errors import OrchestraError, RequestError
from orchestra.outputs import deliver
from orchestra.state import encode_result
from orchestra.tasks import Plan, Result, Status, now
from orchestra.workflow import Workflow


def kept_results(
    workflow: Workflow, plan: Plan, settled: Mapping[str, Any], again: Sequence[str], results: Mapping[str, Any]
) -> dict[str, Any]:
    """The results that a branch starts with, as JSON.

    Args:
        workflow: The workflow.
        plan: The plan of the turn.
        settled: The results at the moment that the branch starts from, as JSON.
        again: Tasks to run again, and with them whatever depends on them.
        results: Outputs to put in place of what tasks produced; what depends on those runs again.

    Raises:
        RequestError: A task is not in the plan, is to be both edited and run again, or an output does not fit.
    """
    for name in again:
        _check_inner(workflow, plan, name)
    redone = {task.partition("/")[0] for task in again}
    for task in (*redone, *results):
        if task not in plan.by_id:
            inside = " (What is inside a team can't be put in.)" if task.partition("/")[0] in plan.by_id else ""
            raise RequestError(
                f"There is no task {task!r} in this plan; it has {', '.join(sorted(plan.by_id))}.{inside}"
            )
    if handed := next((task for task in results if plan.by_id[task].added_by is not None), None):
        asker = plan.by_id[handed].added_by
        raise RequestError(
            f"Task {handed!r} was handed on by {asker!r}, which would run anew: put in {asker!r} instead."
        )
    redone |= {asker for task in redone if (asker := plan.by_id[task].added_by) is not None}
    if both := redone & results.keys():
        raise RequestError(f"Task {min(both)!r} can't be run again and given a result at once.")
    lost = set(redone)
    for task in plan.order:
        if any(need in lost or need in results for need in task.needs) and task.id not in results:
            lost.add(task.id)
    kept = {task: raw for task, raw in settled.items() if task not in lost}
    return kept | {task: _edited(workflow, plan, task, settled.get(task), results[task]) for task in results}


def _edited(workflow: Workflow, plan: Plan, task: str, old: Any, output: Any) -> dict[str, Any]:
    """A result with an output that a person has put in place of the agent's."""
    result = Result.model_validate(old) if old else None
    tried = [attempt.agent for attempt in reversed(result.attempts)] if result else []
    names = ((result and result.agent) or "", plan.by_id[task].agent or "", *tried)
    agent = next((workflow.roster[name] for name in names if name in workflow.roster), None)
    if agent is None:
        raise RequestError(f"Whose output {task!r} would have is not known; let it run first.")
    try:
        stored = deliver(agent, output)
    except OrchestraError as error:
        raise RequestError(f"The output for {task!r} does not fit: {error}") from error
    moment = now()
    result = Result(
        task=task, status=Status.SUCCEEDED, output=stored, agent=agent.name, edited=True, started=moment, ended=moment
    )
    return encode_result(result, workflow.roster)


def _check_inner(workflow: Workflow, plan: Plan | None, name: str) -> None:
    """See that a task inside a team, `team/task`, is there.

    Raises:
        RequestError: It is not, or what is before the slash is no team.
    """
    outer, slash, inner = name.partition("/")
    if not slash or plan is None or outer not in plan.by_id:
        return
    agent = workflow.roster.get(plan.by_id[outer].agent or "")
    if agent is None or not isinstance(agent.run, Workflow):
        raise RequestError(f"There is no task {name!r}: {outer!r} is not a team.")
    team = agent.run
    tasks = team.make_plan() if team.planner is None else None  # a planner's plan is another for each request
    if tasks is not None and inner.partition("/")[0] not in tasks.by_id:
        raise RequestError(f"There is no task {name!r}: team {outer!r} has {', '.join(sorted(tasks.by_id))}.")
    _check_inner(team, tasks, inner)
