"""Commands that set a run going: start, resume, fork, tick; and one that stops it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from orchestra.commands.output import (
    DONE,
    FAILED,
    INTERRUPTED,
    USAGE,
    WAITING,
    as_json,
    console,
    line,
    must_have_runs,
    print_json,
    program,
    say,
    told,
)
from orchestra.references import load
from orchestra.replays import Replayed
from orchestra.run import Run
from orchestra.runs import Orchestra, Ticked
from orchestra.show.terminal import answer, display
from orchestra.show.theme import clean, when
from orchestra.snapshots import Outcome, RunInfo, RunState


def run(arguments: argparse.Namespace) -> int:
    """Start a workflow on a request."""
    workflow = load(arguments.graph)
    request = workflow.example if arguments.request is None else arguments.request
    if arguments.request is None and not request:
        print(f"orchestra: workflow {workflow.name!r} has no example request; pass one.", file=sys.stderr)
        return USAGE

    async def start(orchestra: Orchestra) -> Run:
        return await orchestra.start(
            workflow,
            request,
            thread_id=arguments.thread,
            user=arguments.user,
            supersede=arguments.supersede,
            record=arguments.record,
        )

    if not arguments.json:
        line(console(arguments), f"{workflow.name}: {clean(request)}")
    return asyncio.run(_follow(arguments, start))


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run that was cut off."""
    must_have_runs(arguments.db)

    async def begin(orchestra: Orchestra) -> Run | None:
        info = await orchestra.info(arguments.thread)
        if info.state in (RunState.DONE, RunState.FAILED):
            return None
        return await orchestra.resume(arguments.thread, workflow=load(arguments.graph) if arguments.graph else None)

    return asyncio.run(_follow(arguments, begin))


def fork(arguments: argparse.Namespace) -> int:
    """Go back to a moment and run on from there on a new branch."""
    must_have_runs(arguments.db)
    results: dict[str, Any] = {}
    for given in arguments.set:
        task, equals, text = given.partition("=")
        if not equals:
            print(f"orchestra: --set {given}: write TASK=VALUE, the value as JSON or as plain text.", file=sys.stderr)
            return USAGE
        try:
            results[task] = json.loads(text)
        except ValueError as error:
            if text.lstrip().startswith(("{", "[", '"')):
                print(f"orchestra: --set {task}: the value is not JSON: {error}.", file=sys.stderr)
                return USAGE
            results[task] = text

    async def begin(orchestra: Orchestra) -> Run:
        return await orchestra.fork(
            arguments.thread,
            at=arguments.at,
            again=arguments.again,
            results=results,
            request=arguments.request,
            workflow=load(arguments.graph) if arguments.graph else None,
        )

    return asyncio.run(_follow(arguments, begin))


def replay(arguments: argparse.Namespace) -> int:
    """Play a recorded run back."""
    must_have_runs(arguments.db)

    async def play() -> Replayed:
        async with Orchestra(arguments.db) as orchestra:
            return await orchestra.replay(arguments.thread, workflow=load(arguments.graph) if arguments.graph else None)

    with contextlib.redirect_stdout(sys.stderr):  # agents run again, and may print
        replayed = asyncio.run(play())
    calls = "1 call" if replayed.calls == 1 else f"{replayed.calls} calls"
    text = f"{clean(arguments.thread)}: {calls} of models answered from the recording, none made. "
    if replayed.same:
        text += "The same run."
    else:
        text += f"Other results now: {clean(', '.join(replayed.different))}. Models and tools said the same as then."
    say(arguments, text, {"thread": arguments.thread, "calls": replayed.calls, "different": [*replayed.different]})
    return DONE if replayed.same else FAILED


def _value(text: str) -> Any:
    """What was typed, as JSON if it is that."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def answer_question(arguments: argparse.Namespace) -> int:
    """Answer an open question and go on."""
    must_have_runs(arguments.db)
    given = _value(arguments.answer)
    more = {"why": arguments.why, "output": arguments.output and _value(arguments.output), "agent": arguments.agent}
    if any(more.values()):
        given = {"do": given, **{name: value for name, value in more.items() if value is not None}}

    async def begin(orchestra: Orchestra) -> Run:
        workflow = load(arguments.graph) if arguments.graph else None
        return await orchestra.answer(arguments.thread, given, arguments.question, workflow=workflow)

    return asyncio.run(_follow(arguments, begin))


def tick(arguments: argparse.Namespace) -> int:
    """Continue every waiting run whose time has come."""
    must_have_runs(arguments.db)

    async def go_on() -> list[Ticked]:
        async with Orchestra(arguments.db) as orchestra:
            return await orchestra.tick(workflow=load(arguments.graph) if arguments.graph else None)

    ticked = asyncio.run(go_on())
    if arguments.json:
        print_json(
            [
                {
                    "thread": one.thread_id,
                    "state": one.outcome and str(one.outcome.state),
                    "error": one.error and str(one.error),
                }
                for one in ticked
            ]
        )
    else:
        for one in ticked:
            how = str(one.outcome.state) if one.outcome else f"not continued: {one.error}"
            line(console(arguments), f"{clean(one.thread_id)}: {clean(how)}")
        if not ticked:
            line(console(arguments), "Nothing is due.")
    return FAILED if any(one.error for one in ticked) else DONE


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel the run on a thread, whichever process it is in."""
    must_have_runs(arguments.db)

    async def stop() -> bool:
        async with Orchestra(arguments.db) as orchestra:
            return await orchestra.cancel(arguments.thread)

    found = asyncio.run(stop())
    text = "Cancelled; what is finished stays. Its process notices within 5 s." if found else "No run is on it now."
    say(arguments, f"{clean(arguments.thread)}: {text}", {"thread": arguments.thread, "cancelled": found})
    return DONE


async def _follow(arguments: argparse.Namespace, begin: Callable[[Orchestra], Any]) -> int:
    """Begin a run, show it to its end, drain it on Ctrl-C, and tell how it went and how to go on."""
    where = console(arguments)
    outcome: Outcome | None = None
    async with contextlib.AsyncExitStack() as stack:
        if arguments.json:  # standard output is for the machine, whatever agents print
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        orchestra = await stack.enter_async_context(Orchestra(arguments.db))
        thinking = where.status("Planning …") if where.is_terminal and not arguments.json else contextlib.nullcontext()
        with thinking:
            run: Run | None = await begin(orchestra)
        if run is not None:
            outcome = await _show(run, where, arguments)
        info = await orchestra.info(run.thread_id if run is not None else arguments.thread)
    return _report_finished(arguments, where, info) if run is None else _report(arguments, where, outcome, info)


async def _show(run: Run, where: Console, arguments: argparse.Namespace) -> Outcome | None:
    """Show a run to its end; return how it ended, or nothing if it was cancelled."""
    loop = asyncio.get_running_loop()
    with display(where, quiet=arguments.json) as shown:
        stopping = _Stopping(run, arguments.grace, shown.say)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.request)
        async for event in run.events():
            shown.show(event)
        try:
            return await run
        except asyncio.CancelledError:
            return None


class _Stopping:
    """Ctrl-C: once drains, and cancels what is still in flight after the grace; twice cancels at once."""

    def __init__(self, run: Run, grace: float, say: Callable[[str], None]) -> None:
        self._run, self._grace, self._say = run, grace, say
        self._cancelling: asyncio.Task[None] | None = None
        self._asked = False

    def request(self) -> None:
        if self._asked:
            self._cancelling = asyncio.create_task(self._run.cancel())
            return
        self._asked = True
        self._run.drain()
        self._say(f"Stopping: agents in flight get {self._grace:g} s to finish; Ctrl-C again stops them now.")
        self._cancelling = asyncio.create_task(self._cancel_later())

    async def _cancel_later(self) -> None:
        await asyncio.sleep(self._grace)
        await self._run.cancel()


def _report(arguments: argparse.Namespace, where: Console, outcome: Outcome | None, info: RunInfo) -> int:
    thread = info.thread_id
    if arguments.json:
        print_json(as_json(info))
    elif info.answer is not None and outcome is not None:
        where.print()
        answer(where, info.answer)
        where.print()
    database = "" if arguments.db == arguments.default_db else f" --db {arguments.db}"
    again = f"{program()} resume {shlex.quote(thread)}{database}"
    closer = f"{program()} runs show {shlex.quote(thread)}{database}"
    if info.state is RunState.DONE:
        _tell(arguments, where, f"Done. Look closer: {closer}")
        return DONE
    if info.state is RunState.FAILED:
        _tell(arguments, where, f"Failed: the answer is incomplete. What happened: {closer}")
        return FAILED
    if info.state is RunState.WAITING:
        for question in info.questions:
            _tell(arguments, where, f"Waiting for an answer. {told(question)}")
        if info.questions:
            which = " --question ID" if len(info.questions) > 1 else ""
            how = f"{program()} runs answer {shlex.quote(thread)} ANSWER{which}{database}"
            _tell(arguments, where, f"Answer with: {how}. Nothing is lost.")
        if info.due is not None:
            _tell(arguments, where, f"Goes on by itself at {when(info.due)}, with: {program()} runs tick{database}")
        return WAITING
    _tell(arguments, where, f"Stopped; finished tasks are kept. Go on with: {again}")
    return INTERRUPTED


def _report_finished(arguments: argparse.Namespace, where: Console, info: RunInfo) -> int:
    _tell(arguments, where, f"Thread {info.thread_id} is finished; nothing is left to resume.")
    if info.state is RunState.FAILED or arguments.json:
        return _report(arguments, where, None, info)
    return DONE


def _tell(arguments: argparse.Namespace, where: Console, text: str) -> None:
    if not arguments.json:
        line(where, text)
