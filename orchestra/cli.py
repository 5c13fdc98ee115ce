"""The command line: `orchestra run|resume|runs|graph|db`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 waiting for a person, 130 stopped by Ctrl-C (resumable).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO

from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestra.run import Run
    from orchestra.runs import Orchestra
    from orchestra.snapshots import Outcome, RunInfo

DONE, FAILED, USAGE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_GRAPH_HELP = "a name in graphs/, file.py:variable or package.module:variable"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:  # before a run could be drained: nothing was started
        return INTERRUPTED
    except Exception as error:
        if not _is_the_users(error):
            raise
        print(f"orchestra: {error}", file=sys.stderr)
        return USAGE


def _is_the_users(error: Exception) -> bool:
    """Whether the message alone tells what to do; anything else is a bug and keeps its traceback."""
    if isinstance(error, OrchestraError):
        return True
    from checkpoints import CheckpointsError

    return isinstance(error, CheckpointsError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="orchestra",
        description="Run teams of agents, watch them, and resume what was cut off.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 waiting for a person, 130 stopped by Ctrl-C.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(group: Any, name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        return made

    def database(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--db",
            default=_default_database(),
            metavar="URL",
            help="where runs are stored (ORCHESTRA_DB; default sqlite:///runs.db)",
        )
        made.add_argument("--json", action="store_true", help="print JSON for machines")

    def grace(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--grace",
            type=float,
            default=10.0,
            metavar="S",
            help="seconds agents in flight get after Ctrl-C (default 10)",
        )

    run = add(commands, "run", _run, "Start a workflow on a request.")
    run.add_argument("graph", metavar="GRAPH", help=_GRAPH_HELP)
    run.add_argument("request", metavar="REQUEST", nargs="?", help="what to do; the workflow's own example if left out")
    run.add_argument("--thread", metavar="NAME", help="where to store it; the next turn of it if it exists")
    resume = add(commands, "resume", _resume, "Go on with a run that was cut off; finished tasks don't run again.")
    resume.add_argument("thread", metavar="THREAD", help="as `orchestra runs list` shows it")
    resume.add_argument("--graph", metavar="GRAPH", help="the workflow, if it has moved since")
    for made in (run, resume):
        database(made)
        grace(made)

    runs = commands.add_parser("runs", help="See what runs there are.").add_subparsers(required=True, metavar="COMMAND")
    listing = add(runs, "list", _runs_list, "List the newest run of each thread.")
    listing.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default 20)")
    show = add(runs, "show", _runs_show, "Show one run: its tasks, how each went, and the answer.")
    show.add_argument("thread", metavar="THREAD")
    prune = add(runs, "prune", _runs_prune, "Delete what is too old, too much or long unused.")
    prune.add_argument("thread", metavar="THREAD", nargs="*", help="only these; all if left out")
    prune.add_argument("--older-than", type=_duration, metavar="AGE", help="checkpoints that were stored longer ago")
    prune.add_argument("--keep", type=_count, metavar="N", help="all but so many checkpoints of each thread")
    prune.add_argument(
        "--idle", type=_duration, metavar="AGE", help="whole threads without a newer checkpoint, waiting ones too"
    )
    for made in (listing, show, prune):
        database(made)

    db = commands.add_parser("db", help="Look after a database.").add_subparsers(required=True, metavar="COMMAND")
    database(add(db, "upgrade", _db_upgrade, "Bring the tables to the version that this package needs."))
    database(add(db, "check", _db_check, "Read everything that is stored, and say what is damaged."))

    graphs = commands.add_parser("graph", help="Look at workflows.").add_subparsers(required=True, metavar="COMMAND")
    add(graphs, "list", _graph_list, "List the workflows in graphs/.").add_argument(
        "--json", action="store_true", help="print JSON for machines"
    )
    validate = add(graphs, "validate", _graph_validate, "Check a workflow without running it.")
    validate.add_argument("graph", metavar="GRAPH", help=_GRAPH_HELP)
    validate.add_argument("--json", action="store_true", help="print JSON for machines")
    return parser


def _program() -> str:
    """What to type to run this program again."""
    called = sys.argv[0]
    if not called.endswith("/orchestra") or shutil.which("orchestra"):
        return "orchestra"
    return os.path.relpath(called)


def _default_database() -> str:
    return os.environ.get("ORCHESTRA_DB", "sqlite:///runs.db")


def _console(arguments: argparse.Namespace) -> Console:
    from rich.console import Console

    from orchestra.show.terminal import PIPE_WIDTH

    # Lines in a pipe are for grep: they are not wrapped at the width of a terminal that is not there.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(stderr=arguments.json, width=width)


def _print_json(value: Any, file: TextIO | None = None) -> None:
    import pydantic_core

    print(json.dumps(pydantic_core.to_jsonable_python(value), indent=2, ensure_ascii=False), file=file)


def _run(arguments: argparse.Namespace) -> int:
    from orchestra.references import load
    from orchestra.show.theme import clean

    workflow = load(arguments.graph)
    request = arguments.request or workflow.example
    if not request:
        print(f"orchestra: workflow {workflow.name!r} has no example request; pass one.", file=sys.stderr)
        return USAGE

    async def start(orchestra: Orchestra) -> Run:
        return await orchestra.start(workflow, request, thread_id=arguments.thread)

    console = _console(arguments)
    if not arguments.json:
        console.print(f"{workflow.name}: {clean(request)}", highlight=False, markup=False, soft_wrap=True)
    return asyncio.run(_follow(arguments, start, console))


def _resume(arguments: argparse.Namespace) -> int:
    from orchestra.maintenance import must_exist
    from orchestra.references import load
    from orchestra.snapshots import RunState

    must_exist(arguments.db)

    async def resume(orchestra: Orchestra) -> Run | None:
        info = await orchestra.info(arguments.thread)
        if info.state in (RunState.DONE, RunState.FAILED):
            return None
        return await orchestra.resume(arguments.thread, workflow=load(arguments.graph) if arguments.graph else None)

    return asyncio.run(_follow(arguments, resume, _console(arguments)))


async def _follow(arguments: argparse.Namespace, begin: Callable[[Orchestra], Any], console: Console) -> int:
    """Begin a run, show it to its end, drain it on Ctrl-C, and tell how it went and how to go on."""
    from orchestra.runs import Orchestra
    from orchestra.show.terminal import display

    async with contextlib.AsyncExitStack() as stack:
        if arguments.json:  # standard output is for the machine, whatever agents print
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        orchestra = await stack.enter_async_context(Orchestra(arguments.db))
        run: Run | None = await begin(orchestra)
        if run is None:
            return _report_finished(arguments, console, await orchestra.info(arguments.thread))
        loop = asyncio.get_running_loop()
        with display(console, quiet=arguments.json) as shown:
            stopping = _Stopping(run, arguments.grace, shown.say)
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stopping.request)
            async for event in run.events():
                shown.show(event)
            try:
                outcome = await run
            except asyncio.CancelledError:
                outcome = None
        return _report(arguments, console, run.thread_id, outcome, await orchestra.info(run.thread_id))


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


def _report(
    arguments: argparse.Namespace, console: Console, thread: str, outcome: Outcome | None, info: RunInfo
) -> int:
    from orchestra.show.terminal import answer
    from orchestra.show.theme import clean
    from orchestra.snapshots import RunState

    if arguments.json:
        _print_json(_as_json(info), file=sys.__stdout__)
    elif info.answer is not None and outcome is not None:
        console.print()
        answer(console, info.answer)
        console.print()
    where = "" if arguments.db == _default_database() else f" --db {arguments.db}"
    again = f"{_program()} resume {shlex.quote(thread)}{where}"
    closer = f"{_program()} runs show {shlex.quote(thread)}{where}"
    if info.state is RunState.DONE:
        _tell(arguments, console, f"Done. Look closer: {closer}")
        return DONE
    if info.state is RunState.FAILED:
        _tell(arguments, console, f"Failed: the answer is incomplete. What happened: {closer}")
        return FAILED
    if info.state is RunState.WAITING:
        for question in info.questions:
            _tell(arguments, console, f"Waiting for an answer to question {question.id}: {clean(str(question.value))}")
        _tell(
            arguments,
            console,
            f"Answer in Python: await orchestra.resume({thread!r}, answers={{question id: answer}}). Nothing is lost.",
        )
        return WAITING
    _tell(arguments, console, f"Stopped; finished tasks are kept. Go on with: {again}")
    return INTERRUPTED


def _report_finished(arguments: argparse.Namespace, console: Console, info: RunInfo) -> int:
    from orchestra.snapshots import RunState

    _tell(arguments, console, f"Thread {info.thread_id} is finished; nothing is left to resume.")
    if info.state is RunState.FAILED or arguments.json:
        return _report(arguments, console, info.thread_id, None, info)
    return DONE


def _tell(arguments: argparse.Namespace, console: Console, text: str) -> None:
    if not arguments.json:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _as_json(info: RunInfo) -> dict[str, Any]:
    return {
        "thread": info.thread_id,
        "workflow": info.workflow,
        "reference": info.reference,
        "state": str(info.state),
        "turn": info.turn,
        "request": info.request,
        "since": info.since.isoformat(),
        "plan": info.plan.model_dump(mode="json") if info.plan else None,
        "results": dict(info.raw),
        "answer": info.answer,
        "questions": [{"id": question.id, "value": question.value} for question in info.questions],
    }


def _runs_list(arguments: argparse.Namespace) -> int:
    from orchestra.maintenance import must_exist
    from orchestra.runs import Orchestra

    must_exist(arguments.db)

    async def read() -> list[RunInfo]:
        async with Orchestra(arguments.db) as orchestra:
            return await orchestra.runs(limit=arguments.limit)

    infos = asyncio.run(read())
    if arguments.json:
        _print_json([_as_json(info) for info in infos])
        return DONE
    from orchestra.show.terminal import runs_table

    console = _console(arguments)
    console.print(runs_table(infos) if infos else f"No runs in {arguments.db} yet.")
    return DONE


def _runs_show(arguments: argparse.Namespace) -> int:
    from orchestra.maintenance import must_exist
    from orchestra.runs import Orchestra
    from orchestra.show.terminal import answer, results_table, runs_table
    from orchestra.show.theme import clean

    must_exist(arguments.db)

    async def read() -> RunInfo:
        async with Orchestra(arguments.db) as orchestra:
            return await orchestra.info(arguments.thread)

    info = asyncio.run(read())
    if arguments.json:
        _print_json(_as_json(info))
        return DONE
    console = _console(arguments)
    console.print(runs_table([info]))
    console.print()
    console.print(results_table(info))
    for question in info.questions:
        console.print(f"\nOpen question {question.id}: {clean(str(question.value))}", markup=False)
    if info.answer is not None:
        console.print()
        answer(console, info.answer)
    return DONE


def _runs_prune(arguments: argparse.Namespace) -> int:
    from orchestra.maintenance import prune

    if arguments.older_than is None and arguments.keep is None and arguments.idle is None:
        print(
            "orchestra: say what to delete: --older-than 30d, --keep 20, --idle 90d, or some of them", file=sys.stderr
        )
        return USAGE
    return prune(arguments)


def _db_upgrade(arguments: argparse.Namespace) -> int:
    from orchestra.maintenance import upgrade

    return upgrade(arguments)


def _db_check(arguments: argparse.Namespace) -> int:
    from orchestra.maintenance import check

    return check(arguments)


def _duration(text: str) -> timedelta:
    """A length of time, such as ``90m``, ``12h``, ``30d`` or ``2w``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time: write 90m, 12h, 30d or 2w")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def _count(text: str) -> int:
    """A number of checkpoints to keep."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of checkpoints: at least 1, the newest, is kept")
    return int(text)


def _graph_list(arguments: argparse.Namespace) -> int:
    from orchestra.references import gallery, load

    found: list[dict[str, str]] = []
    for name in gallery():
        try:
            flow = load(name)
        except OrchestraError as error:
            found.append({"name": name, "error": str(error)})
        else:
            found.append({"name": name, "agents": ", ".join(flow.roster), "example": flow.example})
    if arguments.json:
        _print_json(found)
        return DONE
    console = _console(arguments)
    if not found:
        console.print("There is no graphs/ folder with workflows here.")
    for entry in found:
        console.print(entry["name"], style="bold", highlight=False, markup=False)
        for key in ("agents", "example", "error"):
            if entry.get(key):
                console.print(f"  {key}: {entry[key]}", highlight=False, markup=False)
    return DONE


def _graph_validate(arguments: argparse.Namespace) -> int:
    from orchestra.references import load

    workflow = load(arguments.graph)
    workflow.compile()
    plan = workflow.make_plan() if workflow.planner is None else None
    if arguments.json:
        _print_json({"workflow": workflow.name, "plan": plan and plan.model_dump(mode="json")})
        return DONE
    console = _console(arguments)
    made = f"{len(plan.tasks)} tasks, from {plan.made_by}" if plan else "a plan per request, from its planner"
    console.print(f"{workflow.name} is valid: {len(workflow.roster)} agents, {made}.", highlight=False)
    for task in plan.order if plan else ():
        needs = f"  needs {', '.join(task.needs)}" if task.needs else "  starts at once"
        console.print(f"  {task.id}{needs}", highlight=False, markup=False)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
