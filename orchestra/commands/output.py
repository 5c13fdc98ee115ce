"""What all commands share: where they print to, exit codes, and runs as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pydantic_core
from rich.console import Console
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from checkpoints import SQLAlchemySaver
from orchestra.errors import ThreadNotFound
from orchestra.questions import DECISIONS, Question, plain
from orchestra.show.terminal import PIPE_WIDTH
from orchestra.show.theme import clean, one_line, when
from orchestra.snapshots import RunInfo

DONE, FAILED, USAGE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130


def must_exist(database: str) -> None:
    """Refuse to look into a database file that is not there: opening it would make an empty one.

    Raises:
        ThreadNotFound: It is not there.
    """
    with contextlib.suppress(ArgumentError):  # the saver says it better
        url = make_url(database)
        file = url.database or ""
        if url.get_backend_name() == "sqlite" and file not in {"", ":memory:"} and not Path(file).exists():
            raise ThreadNotFound(f"There is no database {file}; name one with --db or ORCHESTRA_DB.")


def must_have_runs(database: str) -> None:
    """Refuse to look into a database without our tables: looking must not make them.

    Raises:
        ThreadNotFound: They are not there.
    """
    must_exist(database)
    with SQLAlchemySaver(database) as saver:
        if saver.schema_version() is None:
            raise ThreadNotFound(f"There are no runs in {database} yet.")


def has_runs(database: str) -> bool:
    """Whether there is a database with our tables."""
    try:
        must_have_runs(database)
    except ThreadNotFound:
        return False
    return True


def program() -> str:
    """What to type to run this program again."""
    called = sys.argv[0]
    if not called.endswith("/orchestra") or shutil.which("orchestra"):
        return "orchestra"
    return os.path.relpath(called)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Print no more: whoever read the output has enough. A run goes on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(arguments: argparse.Namespace) -> Console:
    """Where a person reads; with --json not where the machine does."""
    # Lines in a pipe are for grep: they are not wrapped at the width of a terminal that is not there.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return _Console(stderr=arguments.json, width=width)


def line(where: Console, text: str) -> None:
    """Print a line as it is."""
    where.print(text, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print for machines."""
    print(json.dumps(pydantic_core.to_jsonable_python(value), indent=2, ensure_ascii=False))


def say(arguments: argparse.Namespace, text: str, told: Any) -> None:
    """Print a text, or with --json what it tells."""
    print_json(told) if arguments.json else line(console(arguments), text)


def told(question: Question) -> str:
    """A question in a line or two: what is asked, where, and what can be answered."""
    where = f" ({clean(question.place)})" if question.place else ""
    text = f"Question {question.id}{where}: {clean(question.text)}"
    if question.options:
        text += f" [{' | '.join(clean(plain(option)) for option in question.options)}]"
    for name in ("inputs", "failed", "output", "refused", "why"):  # what one has to know to answer
        if name in question.known:
            text += f"\n  {name}: {one_line(clean(plain(question.known[name])), 400)}"
    if question.due is not None:
        then = question.otherwise["do"] if question.kind in DECISIONS else plain(question.otherwise)
        text += f"\n  by {when(question.due)}; then: {clean(then)}"
    return text


def as_json(info: RunInfo) -> dict[str, Any]:
    """A run for machines."""
    return {
        "thread": info.thread_id,
        "workflow": info.workflow,
        "reference": info.reference,
        "user": info.user,
        "state": str(info.state),
        "turn": info.turn,
        "request": info.request,
        "since": info.since.isoformat(),
        "plan": info.plan.model_dump(mode="json") if info.plan else None,
        "results": dict(info.raw),
        "answer": info.answer,
        "questions": [question.model_dump(mode="json", exclude_defaults=True) for question in info.questions],
        "due": info.due.isoformat() if info.due else None,
        "waiting": list(info.waiting),
        "recorded": info.recorded,
        "teams": {task: as_json(team) for task, team in info.teams.items()},
    }
