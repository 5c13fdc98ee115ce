"""Commands on runs that are there: history, fork, compare, tick, cancel, delete, memory, report, pictures."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.commandline import CommandLine

FLOW = '''
import asyncio, os, time
from orchestra import Assignment, Workflow, agent, ask, wait_for
from langgraph.types import interrupt
from datetime import timedelta

@agent
async def first(task: Assignment) -> int:
    """Count."""
    if "wait" in task.request:
        wait_for(timedelta(seconds=0.4))
    if "never" in task.request:
        wait_for(timedelta(days=9))
    if "slow" in task.request:
        open("working", "w").close()
        await asyncio.sleep(30)
    return len(task.request)

@agent
async def second(x: int, task: Assignment) -> str:
    if "ask" in task.request:
        return interrupt("which one?")
    if "like" in task.request:
        task.remember("liked", task.request)
    return f"# {x} letters, {task.preferences}"

flow = Workflow("letters", agents=[first, second], example="an example")
'''


@pytest.fixture
def orchestra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    (tmp_path / "flow.py").write_text(FLOW)
    return CommandLine(tmp_path, monkeypatch, capsys)


def run(orchestra: CommandLine, request: str, *more: str) -> tuple[int, str, str]:
    return orchestra("run", "flow.py", request, "--thread", "t", *more)


def test_history_fork_and_compare(orchestra: CommandLine) -> None:
    run(orchestra, "hello")
    code, out, _ = orchestra("runs", "history", "t")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["1", "2", "3", "4", "5"]
    code, out, _ = orchestra("runs", "fork", "t", "--set", "first=77")
    assert code == 0
    assert "# 77 letters" in out
    code, out, _ = orchestra("runs", "compare", "t")
    assert code == 0
    assert out.count("changed") == 2
    code, out, _ = orchestra("runs", "compare", "t", "3", "5", "--json")
    assert [task["kind"] for task in json.loads(out)["tasks"]] == ["kept", "added"]
    code, out, _ = orchestra("runs", "fork", "t", "--at", "3", "--json")
    assert json.loads(out)["results"]["first"]["output"] == 5
    code, out, _ = orchestra("runs", "history", "t", "--json")
    assert json.loads(out)["current"] == 3
    code, out, _ = orchestra("runs", "fork", "t", "--at", "1", "--request", "hi")
    assert "# 2 letters" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fork", "t"], "--again"),
        (["fork", "t", "--again", "third"], "no task 'third'"),
        (["fork", "t", "--at", "99"], "moments 1 to 5, not 99"),
        (["fork", "t", "--set", "first"], "TASK=VALUE"),
        (["fork", "t", "--set", "first=many"], "'first' does not fit"),
        (["fork", "t", "--set", "first=1", "--again", "first"], "at once"),
        (["fork", "nix", "--again", "first"], "no thread 'nix'"),
        (["compare", "t", "1", "99"], "not 99"),
        (["history", "nix"], "no thread 'nix'"),
        (["delete", "t", "nix"], "no thread 'nix'"),
        (["list", "--state", "asleep"], "invalid choice"),
        (["list", "--limit", "0"], "not a number of at least 1"),
        (["compare", "t"], "has one branch"),
        (["fork", "t", "--set", "first={"], "not JSON"),
        (["show", "t", "--html", "no/such/folder/report.html"], "can't be written"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_lost(orchestra: CommandLine, arguments: list[str], said: str) -> None:
    run(orchestra, "hello")
    code, _, err = orchestra("runs", *arguments)
    assert code == 2
    assert said in err
    assert orchestra("runs", "list", "--json")[1].count('"thread": "t"') == 1


def test_a_timer_waits_and_tick_goes_on(orchestra: CommandLine) -> None:
    code, out, _ = run(orchestra, "wait")
    assert code == 3
    assert "runs tick" in out
    orchestra("run", "flow.py", "never", "--thread", "n")
    code, out, _ = orchestra("runs", "list", "--state", "waiting", "--json")
    assert {info["thread"] for info in json.loads(out)} == {"t", "n"}
    time.sleep(0.4)
    code, out, _ = orchestra("runs", "tick")
    assert (code, out) == (0, "t: done\n")
    assert orchestra("runs", "tick")[1] == "Nothing is due.\n"
    assert orchestra("runs", "tick", "--json")[1] == "[]\n"


def test_a_new_request_drops_an_open_question_only_if_told_to(orchestra: CommandLine) -> None:
    assert run(orchestra, "ask")[0] == 3
    code, _, err = run(orchestra, "hello")
    assert code == 2
    assert "waits for an answer" in err
    code, out, _ = run(orchestra, "hello", "--supersede")
    assert code == 0
    assert "# 5 letters" in out
    past = json.loads(orchestra("runs", "show", "t", "--json")[1])["history"]
    assert [(turn["ended"], turn["dropped"]) for turn in past] == [("superseded", ["which one?"])]


def test_memory_is_seen_used_set_and_forgotten(orchestra: CommandLine) -> None:
    run(orchestra, "I like tea", "--user", "ada@example.org")
    code, out, _ = orchestra("memory", "list")
    assert code == 0
    assert "ada@example.org" in out
    assert "I like tea" in out
    assert orchestra("memory", "set", "ada@example.org", "tone", '{"short": true}')[0] == 0
    assert orchestra("memory", "set", "ada@example.org", "city", "Linz", "--fact")[0] == 0
    _, out, _ = run(orchestra, "hello", "--user", "ada@example.org")
    assert "'tone': {'short': True}" in out
    assert "Linz" not in out
    told = json.loads(orchestra("memory", "list", "--user", "ada@example.org", "--json")[1])
    assert [memo["kind"] for memo in told["ada@example.org"]] == ["fact", "preference", "preference"]
    assert orchestra("memory", "forget", "ada@example.org", "tone")[1] == "Forgot 1 of ada@example.org.\n"
    assert orchestra("memory", "forget", "ada@example.org", "tone")[0] == 1
    assert orchestra("memory", "forget", "ada@example.org")[1] == "Forgot 2 of ada@example.org.\n"
    assert orchestra("memory", "list")[1] == "Nothing is remembered.\n"


def test_listing_by_workflow_and_user_and_deleting(orchestra: CommandLine) -> None:
    run(orchestra, "hello", "--user", "ada")
    orchestra("run", "flow.py", "hi", "--thread", "u")
    for chosen, threads in (("--user=ada", {"t"}), ("--workflow=letters", {"t", "u"}), ("--workflow=x", set[str]())):
        found: list[dict[str, Any]] = json.loads(orchestra("runs", "list", chosen, "--json")[1])
        assert {info["thread"] for info in found} == threads
    assert "No such runs" in orchestra("runs", "list", "--user", "bob")[1]
    assert orchestra("runs", "delete", "t", "u") == (0, "Deleted t, u.\n", "")
    assert orchestra("runs", "list")[1] == "No runs in sqlite:///runs.db yet.\n"


def test_a_run_of_another_process_is_cancelled(orchestra: CommandLine, tmp_path: Path) -> None:
    with orchestra.start("run", "flow.py", "slow", "--thread", "t") as other:
        deadline = time.monotonic() + 20
        while not (tmp_path / "working").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        assert "Its process notices within 5 s" in orchestra("runs", "cancel", "t")[1]
        _, err = other.communicate(timeout=20)
    assert time.monotonic() - began < 8
    assert other.returncode == 2
    assert "cancelled from elsewhere" in err
    assert json.loads(orchestra("runs", "show", "t", "--json")[1])["state"] == "stopped"
    assert "No run is on it now" in orchestra("runs", "cancel", "t")[1]


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(orchestra: CommandLine, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestra", "run", "flow.py", "hello", "--thread", "t"]
    options = {"env": {**os.environ, "PYTHONUNBUFFERED": "1"}, "cwd": tmp_path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"letters: hello\n"
        other.stdout.close()
        other.wait(20)
    assert json.loads(orchestra("runs", "show", "t", "--json")[1])["state"] == "done"


def test_looking_into_somebody_elses_database_writes_nothing(orchestra: CommandLine, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as theirs:
        theirs.execute("CREATE TABLE things (name TEXT)")
        theirs.commit()
    before = (tmp_path / "theirs.db").read_bytes()
    for command in (["runs", "list"], ["runs", "show", "t"], ["runs", "tick"], ["memory", "list"], ["resume", "t"]):
        code, _, err = orchestra(*command, "--db", "sqlite:///theirs.db")
        assert (code, "There are no runs in" in err) == (2, True)
    assert (tmp_path / "theirs.db").read_bytes() == before


def test_a_report_is_one_page(orchestra: CommandLine, tmp_path: Path) -> None:
    run(orchestra, "<script>alert(1)</script>")
    assert orchestra("runs", "show", "t", "--html", "report.html") == (0, "Wrote report.html.\n", "")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_workflow_is_drawn(orchestra: CommandLine, tmp_path: Path) -> None:
    code, out, _ = orchestra("graph", "draw", "flow.py")
    assert code == 0
    assert out.startswith("flowchart")
    assert orchestra("graph", "draw", "flow.py", "-o", "flow.svg")[0] == 0
    assert "first" in (tmp_path / "flow.svg").read_text()
    code, _, err = orchestra("graph", "draw", "flow.py", "-o", "flow.jpg")
    assert code == 2
    assert ".svg, .png or .mmd" in err
    code, _, err = orchestra("graph", "draw", "flow.py", "-o", "flow.png")
    if any(map(shutil.which, ("rsvg-convert", "inkscape", "magick", "convert", "chromium", "chromium-browser"))):
        assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert (code, "svg" in err) == (2, True)


def test_python_m_orchestra_answers_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "orchestra", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0
    assert "resume" in done.stdout
    assert "langgraph" not in done.stderr
