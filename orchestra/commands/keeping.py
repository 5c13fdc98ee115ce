"""Commands that look after what is stored: the database, old runs, and what is remembered of users."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from checkpoints import SQLAlchemySaver
from orchestra.assignments import Memo
from orchestra.commands.output import DONE, FAILED, USAGE, console, line, must_exist, must_have_runs, print_json, say
from orchestra.runs import Orchestra
from orchestra.show.terminal import memory_table
from orchestra.show.theme import clean

T = TypeVar("T")


def upgrade(arguments: argparse.Namespace) -> int:
    """Bring the tables to the version that this package needs."""
    must_exist(arguments.db)
    with SQLAlchemySaver(arguments.db) as saver:
        before, now = saver.upgrade()
    text = f"Upgraded from version {before} to {now}." if before != now else f"Version {now}: nothing to upgrade."
    say(arguments, text, {"before": before, "now": now})
    return DONE


def check(arguments: argparse.Namespace) -> int:
    """Read everything that is stored, and say what is damaged."""
    must_exist(arguments.db)
    with SQLAlchemySaver(arguments.db) as saver:
        version = saver.schema_version()
        if version is None:
            say(arguments, "There are no runs in it yet.", {"version": None, "problems": []})
            return DONE
        problems = saver.check()
        found = saver.statistics()
    lines = [f"Damaged: {problem.what}" for problem in problems]
    rows = sum(one.checkpoints for one in found)
    size = sum(one.bytes for one in found)
    verdict = f"{len(problems)} damaged." if problems else "All of it can be read."
    lines.append(f"Version {version}: {len(found)} threads, {rows:,} checkpoints, {size / 1e6:,.1f} MB. {verdict}")
    told = {"version": version, "threads": len(found), "checkpoints": rows, "bytes": size}
    say(arguments, "\n".join(lines), {**told, "problems": [problem.what for problem in problems]})
    return FAILED if problems else DONE


def prune(arguments: argparse.Namespace) -> int:
    """Delete what is too old, too much or long unused."""
    if arguments.older_than is None and arguments.keep is None and arguments.idle is None:
        print(
            "orchestra: say what to delete: --older-than 30d, --keep 20, --idle 90d, or some of them", file=sys.stderr
        )
        return USAGE
    must_exist(arguments.db)
    with SQLAlchemySaver(arguments.db) as saver:
        gone = saver.clean(
            max_age=arguments.older_than,
            max_checkpoints=arguments.keep,
            max_idle=arguments.idle,
            thread_ids=arguments.thread or None,
        )
    text = f"Deleted {gone.threads} threads, and {gone.checkpoints} checkpoints of threads that remain."
    say(arguments, text, {"threads": gone.threads, "checkpoints": gone.checkpoints})
    return DONE


def delete(arguments: argparse.Namespace) -> int:
    """Delete threads with all that belongs to them."""

    async def gone(orchestra: Orchestra) -> None:
        for thread in arguments.thread:
            await orchestra.info(thread)  # all of them are there, or none is deleted
        for thread in arguments.thread:
            await orchestra.delete(thread)

    _with(arguments, gone)
    say(arguments, f"Deleted {', '.join(map(clean, arguments.thread))}.", {"deleted": arguments.thread})
    return DONE


def memory_list(arguments: argparse.Namespace) -> int:
    """Show what is remembered."""

    async def read(orchestra: Orchestra) -> dict[str, list[Memo]]:
        names = [arguments.user] if arguments.user else await orchestra.users()
        return {user: await orchestra.memory(user).all() for user in names}

    found = _with(arguments, read)
    if arguments.json:
        print_json({user: [memo.model_dump(mode="json") for memo in memos] for user, memos in found.items()})
    elif not any(found.values()):
        of = f" of {clean(arguments.user)}" if arguments.user else ""
        line(console(arguments), f"Nothing is remembered{of}.")
    else:
        console(arguments).print(memory_table(found))
    return DONE


def memory_set(arguments: argparse.Namespace) -> int:
    """Remember something of a user."""
    try:
        value = json.loads(arguments.value)
    except ValueError:
        value = arguments.value
    kind = "fact" if arguments.fact else "preference"
    asyncio.run(_call(arguments, lambda o: o.memory(arguments.user).remember(arguments.key, value, kind=kind)))
    say(arguments, f"Remembered of {clean(arguments.user)}: {clean(arguments.key)}.", {"key": arguments.key})
    return DONE


def memory_forget(arguments: argparse.Namespace) -> int:
    """Delete what is remembered of a user."""
    count = _with(arguments, lambda orchestra: orchestra.memory(arguments.user).forget(arguments.key))
    text = f"Forgot {count} of {clean(arguments.user)}." if count else "There was nothing to forget."
    say(arguments, text, {"forgotten": count})
    return DONE if count else FAILED


def _with(arguments: argparse.Namespace, work: Callable[[Orchestra], Awaitable[T]]) -> T:
    """Do something with a database that must be there."""
    must_have_runs(arguments.db)
    return asyncio.run(_call(arguments, work))


async def _call(arguments: argparse.Namespace, work: Callable[[Orchestra], Awaitable[T]]) -> T:
    async with Orchestra(arguments.db) as orchestra:
        return await work(orchestra)
