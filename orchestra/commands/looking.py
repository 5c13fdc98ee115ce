"""Commands that only look: at runs, at a thread's moments, at workflows."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pydantic_core

from orchestra.agents import Agent
from orchestra.clinic import Checkup, Clinic, everyone
from orchestra.commands.output import (
    DONE,
    FAILED,
    USAGE,
    as_json,
    console,
    has_runs,
    line,
    must_have_runs,
    print_json,
    say,
    told,
)
from orchestra.errors import OrchestraError, RequestError
from orchestra.references import gallery, load
from orchestra.runs import Orchestra
from orchestra.show.graph import mermaid, workflow_svg
from orchestra.show.picture import write_picture
from orchestra.show.report import report
from orchestra.show.standing import standing_view
from orchestra.show.terminal import (
    agents_table,
    answer,
    comparison_table,
    history_table,
    results_table,
    runs_table,
    values_table,
)
from orchestra.show.theme import when
from orchestra.snapshots import Comparison, RunInfo, RunState
from orchestra.standing import Standing
from orchestra.vitals import Condition

T = TypeVar("T")

_SICK = (Condition.OPEN, Condition.HALF_OPEN)


def runs_list(arguments: argparse.Namespace) -> int:
    """List the newest run of each thread."""
    infos = _read(
        arguments,
        lambda orchestra: orchestra.runs(
            state=arguments.state, workflow=arguments.workflow, user=arguments.user, limit=arguments.limit
        ),
    )
    if arguments.json:
        print_json([as_json(info) for info in infos])
    elif infos:
        console(arguments).print(runs_table(infos))
    else:
        chosen = arguments.state or arguments.workflow or arguments.user
        line(console(arguments), f"No {'such ' if chosen else ''}runs in {arguments.db}{'' if chosen else ' yet'}.")
    return DONE


def runs_show(arguments: argparse.Namespace) -> int:
    """Show one run: its tasks, how each went, and the answer; or write all of it as a page."""

    async def read(orchestra: Orchestra) -> tuple[RunInfo, list[dict[str, Any]], Standing]:
        thread = arguments.thread
        return await orchestra.info(thread), await orchestra.turns(thread), await orchestra.status(thread)

    info, turns, standing = _read(arguments, read)
    if arguments.html is not None:
        return _write(arguments, arguments.html, lambda path: path.write_text(report(info, history=turns), "utf-8"))
    if arguments.json:
        print_json(as_json(info) | {"history": turns, "status": standing.as_json()})
        return DONE
    where = console(arguments)
    where.print(runs_table([info]))
    where.print()
    where.print(results_table(info))
    if info.state not in (RunState.DONE, RunState.FAILED):
        where.print()
        where.print(standing_view(replace(standing, questions=())))
    for question in info.questions:
        line(where, f"\nOpen: {told(question)}")
    if info.due is not None:
        line(where, f"\nGoes on by itself at {when(info.due)}, with: orchestra runs tick")
    if info.answer is not None:
        where.print()
        answer(where, info.answer)
    return DONE


def history(arguments: argparse.Namespace) -> int:
    """Show the moments of a thread that a branch can start from."""
    found = _read(arguments, lambda orchestra: orchestra.history(arguments.thread))
    if arguments.json:
        print_json({"current": found.current, "moments": [_plain(moment) for moment in found]})
    else:
        console(arguments).print(history_table(found))
    return DONE


def compare(arguments: argparse.Namespace) -> int:
    """Show where two moments of a thread differ."""

    async def read(orchestra: Orchestra) -> Comparison:
        found = await orchestra.history(arguments.thread)
        ends = [moment.number for _, moment in sorted(found.branches.items())][-2:]
        if len(ends) < 2 and arguments.after is None:
            raise RequestError(f"Thread {arguments.thread!r} has one branch: name two of its moments to compare.")
        before, after = arguments.before or ends[0], arguments.after or ends[-1]
        return await orchestra.compare(arguments.thread, before, after)

    found = _read(arguments, read)
    if arguments.json:
        print_json(
            {
                "tasks": [{"task": one.task, "kind": one.kind} for one in found.tasks],
                "values": [_plain(one) for one in found.values],
            }
        )
        return DONE
    where = console(arguments)
    where.print(comparison_table(found))
    if found.values:
        where.print()
        where.print(values_table(found))
    return DONE


def agents(arguments: argparse.Namespace) -> int:
    """Show the agents of a workflow and of its teams, and how they are; with --check, probe them first."""
    workflow = load(arguments.graph)
    workflow.compile()

    async def look(orchestra: Orchestra) -> tuple[list[Checkup], dict[str, list[Checkup]]]:
        clinic = Clinic(workflow, orchestra.store)
        done = await clinic.check() if arguments.check else []
        await clinic.read()
        return done, {name: await clinic.history(name) for name in clinic.agents}

    async def go() -> tuple[list[Checkup], dict[str, list[Checkup]]]:
        if not arguments.check and not has_runs(arguments.db):  # looking makes no database
            return [], {}
        async with Orchestra(arguments.db) as orchestra:
            return await look(orchestra)

    with contextlib.redirect_stdout(sys.stderr):  # agents run, and may print
        done, probes = asyncio.run(go())
    everybody = everyone(workflow)
    sick = [name for name, agent in everybody.items() if agent.health.condition in _SICK]
    failed = any(one.problem for one in done)
    if arguments.json:
        print_json([_agent(name, agent, probes.get(name, [])) for name, agent in everybody.items()])
    else:
        console(arguments).print(agents_table(everybody, probes))
        if arguments.check and not done:
            line(console(arguments), "No agent has a probe: Agent(probe=Probe(input, expect)).")
    return FAILED if failed or sick else DONE


def _agent(name: str, agent: Agent, probes: list[Checkup]) -> dict[str, Any]:
    health = agent.health
    return {
        "agent": name,
        "capabilities": [each.name for each in agent.capabilities],
        "condition": str(health.condition),
        "reasons": list(health.reasons),
        "typical_seconds": health.typical,
        "probes": [_plain(one) for one in probes],
    }


def graph_list(arguments: argparse.Namespace) -> int:
    """List the workflows in graphs/."""
    found: list[dict[str, str]] = []
    for name in gallery():
        try:
            flow = load(name)
        except OrchestraError as error:
            found.append({"name": name, "error": str(error)})
        else:
            found.append({"name": name, "agents": ", ".join(flow.roster), "example": flow.example})
    if arguments.json:
        print_json(found)
        return DONE
    where = console(arguments)
    if not found:
        line(where, "There is no graphs/ folder with workflows here.")
    for entry in found:
        where.print(entry["name"], style="bold", highlight=False, markup=False)
        for key in ("agents", "example", "error"):
            if entry.get(key):
                line(where, f"  {key}: {entry[key]}")
    return DONE


def graph_validate(arguments: argparse.Namespace) -> int:
    """Check a workflow without running it."""
    workflow = load(arguments.graph)
    workflow.compile()
    plan = workflow.make_plan() if workflow.planner is None else None
    if arguments.json:
        print_json({"workflow": workflow.name, "plan": plan and plan.model_dump(mode="json")})
        return DONE
    where = console(arguments)
    made = f"{len(plan.tasks)} tasks, from {plan.made_by}" if plan else "a plan per request, from its planner"
    line(where, f"{workflow.name} is valid: {len(workflow.roster)} agents, {made}.")
    for task in plan.order if plan else ():
        line(where, f"  {task.id}  {'needs ' + ', '.join(task.needs) if task.needs else 'starts at once'}")
    return DONE


def graph_draw(arguments: argparse.Namespace) -> int:
    """Draw a workflow: as Mermaid text, or into a file as SVG or PNG."""
    workflow = load(arguments.graph)
    workflow.compile()
    if arguments.output is None:
        print(mermaid(workflow))
        return DONE
    if arguments.output.suffix not in (".svg", ".png", ".mmd"):
        print(f"orchestra: {arguments.output}: the name must end in .svg, .png or .mmd.", file=sys.stderr)
        return USAGE
    if arguments.output.suffix == ".mmd":
        return _write(arguments, arguments.output, lambda path: path.write_text(mermaid(workflow), "utf-8"))
    return _write(arguments, arguments.output, lambda path: write_picture(workflow_svg(workflow), path))


def _write(arguments: argparse.Namespace, path: Path, write: Callable[[Path], Any]) -> int:
    try:
        write(path)
    except OSError as error:
        print(f"orchestra: {path} can't be written: {error.strerror}.", file=sys.stderr)
        return USAGE
    say(arguments, f"Wrote {path}.", {"file": str(path)})
    return DONE


def _read(arguments: argparse.Namespace, read: Callable[[Orchestra], Awaitable[T]]) -> T:
    must_have_runs(arguments.db)

    async def go() -> T:
        async with Orchestra(arguments.db) as orchestra:
            return await read(orchestra)

    return asyncio.run(go())


def _plain(value: Any) -> Any:
    return pydantic_core.to_jsonable_python(value, fallback=str)
