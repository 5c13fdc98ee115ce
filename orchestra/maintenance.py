"""The command line's upkeep of a database: `orchestra db upgrade|check`, `orchestra runs prune`."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from checkpoints import SQLAlchemySaver
from orchestra.errors import ThreadNotFound


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


def upgrade(arguments: argparse.Namespace) -> int:
    """Bring the tables to the version that this package needs."""
    must_exist(arguments.db)
    with SQLAlchemySaver(arguments.db) as saver:
        before, now = saver.upgrade()
    text = f"Upgraded from version {before} to {now}." if before != now else f"Version {now}: nothing to upgrade."
    _say(arguments, text, {"before": before, "now": now})
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Read everything that is stored, and say what is damaged."""
    must_exist(arguments.db)
    with SQLAlchemySaver(arguments.db) as saver:
        version = saver.schema_version()
        if version is None:
            _say(arguments, "There are no runs in it yet.", {"version": None, "problems": []})
            return 0
        problems = saver.check()
        found = saver.statistics()
    lines = [f"Damaged: {problem.what}" for problem in problems]
    rows = sum(one.checkpoints for one in found)
    size = sum(one.bytes for one in found)
    verdict = f"{len(problems)} damaged." if problems else "All of it can be read."
    lines.append(f"Version {version}: {len(found)} threads, {rows:,} checkpoints, {size / 1e6:,.1f} MB. {verdict}")
    told = {"version": version, "threads": len(found), "checkpoints": rows, "bytes": size}
    _say(arguments, "\n".join(lines), {**told, "problems": [problem.what for problem in problems]})
    return 1 if problems else 0


def prune(arguments: argparse.Namespace) -> int:
    """Delete what is too old, too much or long unused."""
    must_exist(arguments.db)
    with SQLAlchemySaver(arguments.db) as saver:
        gone = saver.clean(
            max_age=arguments.older_than,
            max_checkpoints=arguments.keep,
            max_idle=arguments.idle,
            thread_ids=arguments.thread or None,
        )
    text = f"Deleted {gone.threads} threads, and {gone.checkpoints} checkpoints of threads that remain."
    _say(arguments, text, {"threads": gone.threads, "checkpoints": gone.checkpoints})
    return 0


def _say(arguments: argparse.Namespace, text: str, told: dict[str, Any]) -> None:
    print(json.dumps(told, indent=2) if arguments.json else text)
