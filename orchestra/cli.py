"""The command line: `orchestra run|resume|runs|agents|memory|graph|db`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 waiting for a person or a date, 130 stopped by Ctrl-C (resumable).

The commands themselves are in `orchestra.commands`, imported when one is called, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from orchestra.errors import OrchestraError

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_GRAPH_HELP = "a name in graphs/, file.py:variable or package.module:variable"

_STATES = ("running", "done", "failed", "waiting", "stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: What is typed after the program's name; by default what was typed to start this process.
    """
    arguments = _parser().parse_args(argv)
    module, _, name = arguments.command.partition(".")
    imported = _imported_for_good if argv is None else importlib.import_module
    try:
        return getattr(imported(f"orchestra.commands.{module}"), name)(arguments)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # before a run could be drained: nothing was started
        return 130
    except Exception as error:
        if not _is_the_users(error):
            raise
        print(f"orchestra: {error}", file=sys.stderr)
        return 2


def _imported_for_good(name: str) -> ModuleType:
    """A module in a process that is there for one command.

    What is imported stays to the end. Searching it for garbage, meanwhile and at the exit, takes a third of the time of
    a short command, so the collector leaves it alone.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def _is_the_users(error: Exception) -> bool:
    """Whether the message alone tells what to do; anything else is a bug and keeps its traceback."""
    if isinstance(error, OrchestraError):
        return True
    return isinstance(error, importlib.import_module("checkpoints").CheckpointsError)


class _Commands:
    """A group of commands under one name.

    Args:
        made: What argparse has for the group.
    """

    def __init__(self, made: Any) -> None:
        self._made = made

    def group(self, name: str, text: str) -> _Commands:
        """Add a group inside this one."""
        inner = self._made.add_parser(name, help=text, description=text)
        return _Commands(inner.add_subparsers(required=True, metavar="COMMAND"))

    def add(self, name: str, command: str, text: str, *, stored: bool = True) -> argparse.ArgumentParser:
        """Add a command.

        Args:
            name: What is typed.
            command: The module and the function in `orchestra.commands`.
            text: What it does.
            stored: Whether it works with a database.
        """
        made: argparse.ArgumentParser = self._made.add_parser(name, help=text, description=text)
        default = os.environ.get("ORCHESTRA_DB", "sqlite:///runs.db")
        made.set_defaults(command=command, default_db=default)
        if stored:
            made.add_argument(
                "--db",
                default=default,
                metavar="URL",
                help="where runs are stored (ORCHESTRA_DB; default sqlite:///runs.db)",
            )
        made.add_argument("--json", action="store_true", help="print JSON for machines")
        return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="orchestra",
        description="Run teams of agents, watch them, and resume what was cut off.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 waiting for a person or a date, 130 stopped by Ctrl-C.",
    )
    commands = _Commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    run = commands.add("run", "going.run", "Start a workflow on a request.")
    run.add_argument("graph", metavar="GRAPH", help=_GRAPH_HELP)
    run.add_argument("request", metavar="REQUEST", nargs="?", help="what to do; the workflow's own example if left out")
    run.add_argument("--thread", metavar="NAME", help="where to store it; the next turn of it if it exists")
    run.add_argument("--user", metavar="NAME", help="whose preferences and facts agents use; by default the thread's")
    run.add_argument("--supersede", action="store_true", help="drop the questions that are open on the thread")
    run.add_argument("--record", action="store_true", help="keep what models say, for `orchestra runs replay`")
    _followed(run)
    resume = commands.add(
        "resume", "going.resume", "Go on with a run that was cut off; finished tasks don't run again."
    )
    resume.add_argument("thread", metavar="THREAD", help="as `orchestra runs list` shows it")
    _moved(resume)
    _followed(resume)
    runs = commands.group("runs", "See what runs there are, go back in one, branch it, clean up.")
    _looking(runs)
    _changing(runs)
    _memory(commands.group("memory", "See and change what is remembered of users."))
    db = commands.group("db", "Look after a database.")
    db.add("upgrade", "keeping.upgrade", "Bring the tables to the version that this package needs.")
    db.add("check", "keeping.check", "Read everything that is stored, and say what is damaged.")
    agents = commands.add("agents", "looking.agents", "Show a workflow's agents and how they are; probe them.")
    agents.add_argument("graph", metavar="GRAPH", help=_GRAPH_HELP)
    agents.add_argument("--check", action="store_true", help="give each agent that has a probe its test task now")
    graphs = commands.group("graph", "Look at workflows.")
    graphs.add("list", "looking.graph_list", "List the workflows in graphs/.", stored=False)
    validate = graphs.add("validate", "looking.graph_validate", "Check a workflow without running it.", stored=False)
    validate.add_argument("graph", metavar="GRAPH", help=_GRAPH_HELP)
    draw = graphs.add("draw", "looking.graph_draw", "Draw a workflow, as Mermaid text or into a file.", stored=False)
    draw.add_argument("graph", metavar="GRAPH", help=_GRAPH_HELP)
    draw.add_argument("-o", "--output", type=Path, metavar="FILE", help="NAME.svg, NAME.png or NAME.mmd")
    return parser


def _looking(runs: _Commands) -> None:
    listing = runs.add("list", "looking.runs_list", "List the newest run of each thread.")
    listing.add_argument("--state", choices=_STATES, help="only those that stand so")
    listing.add_argument("--workflow", metavar="NAME", help="only those of this workflow")
    listing.add_argument("--user", metavar="NAME", help="only those of this user")
    listing.add_argument("--limit", type=_count, default=20, metavar="N", help="how many (default 20)")
    show = runs.add("show", "looking.runs_show", "Show one run: its tasks, how each went, and the answer.")
    show.add_argument("thread", metavar="THREAD")
    show.add_argument("--html", type=Path, metavar="FILE", help="write all of it as one page that opens from disk")
    history = runs.add("history", "looking.history", "Show the moments of a thread that a branch can start from.")
    history.add_argument("thread", metavar="THREAD")
    compare = runs.add(
        "compare",
        "looking.compare",
        "Show where two moments of a thread differ: which results were kept, came to the same end again, changed, or "
        "are there at one of them only.",
    )
    compare.add_argument("thread", metavar="THREAD")
    compare.add_argument("before", metavar="MOMENT", type=int, nargs="?", help="a number from `runs history`")
    compare.add_argument(
        "after", metavar="MOMENT", type=int, nargs="?", help="another; by default the ends of the two newest branches"
    )


def _changing(runs: _Commands) -> None:
    fork = runs.add("fork", "going.fork", "Go back to a moment and run on from there, on a branch of its own.")
    fork.add_argument("thread", metavar="THREAD")
    fork.add_argument("--at", type=int, metavar="MOMENT", help="a number from `runs history`; by default, as it is now")
    fork.add_argument("--again", action="append", default=[], metavar="TASK", help="run it, and what follows, again")
    fork.add_argument(
        "--set", action="append", default=[], metavar="TASK=VALUE", help="put an output in place of a task's; as JSON"
    )
    fork.add_argument("--request", metavar="TEXT", help="another request in place of the turn's; it runs as a whole")
    _moved(fork)
    _followed(fork)
    replay = runs.add(
        "replay", "going.replay", "Play a recorded run back without calling a model, and say whether it is the same."
    )
    replay.add_argument("thread", metavar="THREAD")
    _moved(replay)
    answer = runs.add("answer", "going.answer_question", "Answer an open question, and go on.")
    answer.add_argument("thread", metavar="THREAD")
    answer.add_argument("answer", metavar="ANSWER", help="as JSON or plain text; a decision by its word: approve, …")
    answer.add_argument(
        "--question", default="", metavar="ID", help="its id, the beginning of it, or the task; if several are open"
    )
    answer.add_argument("--why", metavar="TEXT", help="the reason of a decision")
    answer.add_argument("--output", metavar="VALUE", help="the output, for edit and supply; as JSON or plain text")
    answer.add_argument("--agent", metavar="NAME", help="whom to give the task to, for reassign")
    _moved(answer)
    _followed(answer)
    tick = runs.add("tick", "going.tick", "Continue every waiting run whose date or deadline has come; for cron.")
    _moved(tick)
    cancel = runs.add("cancel", "going.cancel", "Cancel the run on a thread; what is finished stays.")
    cancel.add_argument("thread", metavar="THREAD")
    delete = runs.add("delete", "keeping.delete", "Delete threads with all their turns and branches.")
    delete.add_argument("thread", metavar="THREAD", nargs="+")
    prune = runs.add("prune", "keeping.prune", "Delete what is too old, too much or long unused.")
    prune.add_argument("thread", metavar="THREAD", nargs="*", help="only these; all if left out")
    prune.add_argument("--older-than", type=_duration, metavar="AGE", help="checkpoints that were stored longer ago")
    prune.add_argument("--keep", type=_kept, metavar="N", help="all but so many checkpoints of each thread")
    prune.add_argument(
        "--idle", type=_duration, metavar="AGE", help="whole threads without a newer checkpoint, waiting ones too"
    )


def _memory(memory: _Commands) -> None:
    listing = memory.add("list", "keeping.memory_list", "Show what is remembered.")
    listing.add_argument("--user", metavar="NAME", help="only of this user")
    put = memory.add("set", "keeping.memory_set", "Remember something of a user.")
    put.add_argument("user", metavar="USER")
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="VALUE", help="as JSON, or plain text")
    put.add_argument("--fact", action="store_true", help="a fact, not a preference")
    forget = memory.add("forget", "keeping.memory_forget", "Delete what is remembered of a user.")
    forget.add_argument("user", metavar="USER")
    forget.add_argument("key", metavar="KEY", nargs="?", help="only this; everything if left out")


def _moved(made: argparse.ArgumentParser) -> None:
    made.add_argument("--graph", metavar="GRAPH", help="the workflow, if it has moved since")


def _followed(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--grace",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds agents in flight get after Ctrl-C (default 10)",
    )


def _duration(text: str) -> timedelta:
    """A length of time, such as ``90m``, ``12h``, ``30d`` or ``2w``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length of time: write 90m, 12h, 30d or 2w")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def _count(text: str) -> int:
    """A number of things, at least one."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _kept(text: str) -> int:
    """A number of checkpoints to keep."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of checkpoints: at least 1, the newest, is kept")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
