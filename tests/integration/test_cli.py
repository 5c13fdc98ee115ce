"""The command line: exit codes, what is printed, and, in real processes, signals, kills and other processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.commandline import CommandLine

FLOW = '''
import asyncio, os
from orchestra import Agent, Assignment, RequestError, Workflow, agent
from langgraph.types import interrupt

def check(request):
    if "bad" in request:
        raise RequestError("no such file: bad.txt. Name one that exists.")

def log(line):
    with open("log", "a") as file:
        file.write(line + "\\n")

@agent
async def first(task: Assignment) -> int:
    """Count."""
    log("first")
    return len(task.request)

@agent
async def second(x: int, task: Assignment) -> str:
    log("second")
    if "slow" in task.request:
        await asyncio.sleep(float(os.environ.get("SLOW", "30")))
    if "fail" in task.request:
        raise ValueError("out of luck")
    if "ask" in task.request:
        return interrupt("which one?")
    return f"# {x} letters"

flow = Workflow("letters", agents=[first, second], check=check, example="an example")
'''


class Shell(CommandLine):
    """A command line beside the workflow, and the log of what its agents did."""

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().split()

    def wait_for(self, line: str) -> None:
        deadline = time.monotonic() + 20
        while not (self.folder / "log").exists() or line not in self.log():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "flow.py").write_text(FLOW)
    return Shell(tmp_path, monkeypatch, capsys)


def test_a_run_prints_its_tasks_its_answer_and_how_to_look_closer(shell: Shell) -> None:
    code, out, err = shell.process("run", "flow.py", "hello", "--thread", "t1")
    assert (code, err) == (0, "")
    assert "succeeded  first" in out
    assert "# 5 letters" in out
    assert "orchestra runs show t1" in out
    code, out, _ = shell.process("runs", "list")
    assert code == 0
    assert all(word in out for word in ("t1", "letters", "done", "2/2", "hello"))
    code, out, _ = shell.process("runs", "show", "t1")
    assert code == 0
    assert "second" in out
    assert "# 5 letters" in out


def test_json_for_machines(shell: Shell) -> None:
    code, out, _ = shell("run", "flow.py:flow", "--json", "--thread", "t1")
    run = json.loads(out)
    assert (code, run["state"], run["answer"], run["request"]) == (0, "done", "# 10 letters", "an example")
    assert run["results"]["first"]["output"] == 10
    assert json.loads(shell("runs", "list", "--json")[1])[0]["thread"] == "t1"
    assert json.loads(shell("runs", "show", "t1", "--json")[1])["plan"]["made_by"] == "types"
    assert json.loads(shell("graph", "validate", "flow.py", "--json")[1])["workflow"] == "letters"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere"], "There is no workflow or module 'nowhere'"),
        (["run", "gone.py"], "There is no file gone.py"),
        (["run", "flow.py:other"], "there is no workflow 'other'; workflows there: flow"),
        (["run", "flow.py", "bad"], "no such file: bad.txt. Name one that exists."),
        (["run", "flow.py", " "], "The request is empty"),
        (["resume", "t9"], "There is no database runs.db; name one with --db"),
        (["runs", "show", "t9"], "There is no database runs.db"),
        (["runs", "list"], "There is no database runs.db"),
        (["runs", "list", "--db", "nonsense"], "nonsense"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["runs", "prune"], "say what to delete: --older-than 30d, --keep 20, --idle 90d"),
        (["runs", "prune", "--older-than", "soon"], "'soon' is not a length of time: write 90m, 12h, 30d or 2w"),
        (["runs", "prune", "--keep", "0"], "at least 1, the newest, is kept"),
        (["runs", "prune", "--keep", "1"], "There is no database runs.db"),
        (["db", "check"], "There is no database runs.db"),
        (["db", "upgrade"], "There is no database runs.db"),
    ],
)
def test_wrong_input_gets_one_clear_line_and_exit_code_2(shell: Shell, arguments: list[str], message: str) -> None:
    code, out, err = shell(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err


def test_a_process_with_wrong_input_ends_with_exit_code_2(shell: Shell) -> None:
    code, out, err = shell.process("run", "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("orchestra: There is no workflow or module 'nowhere'")
    assert err.count("\n") == 1


def test_looking_for_what_is_not_there_makes_no_files(shell: Shell) -> None:
    shell("runs", "list")
    assert not (shell.folder / "runs.db").exists()
    shell("run", "flow.py", "x", "--thread", "t1")
    code, _, err = shell("runs", "show", "t9")
    assert code == 2
    assert "There is no thread 't9' in this database" in err


def test_what_users_and_agents_write_is_text_to_the_terminal(shell: Shell) -> None:
    code, out, _ = shell("run", "flow.py", "see [/etc/hosts] and [dim]this \x1b[2J")
    assert code == 0
    assert "see [/etc/hosts] and [dim]this" in out
    assert "\x1b" not in out


def test_another_workflow_does_not_take_over_a_thread(shell: Shell) -> None:
    shell("run", "flow.py", "ask", "--thread", "t1")
    (shell.folder / "other.py").write_text(FLOW.replace('Workflow("letters"', 'Workflow("numbers"'))
    code, _, err = shell("resume", "t1", "--graph", "other.py")
    assert code == 2
    assert "a run of the workflow 'letters', not of 'numbers'" in err


def test_a_failed_run_says_what_is_missing(shell: Shell) -> None:
    code, out, _ = shell.process("run", "flow.py", "fail")
    assert code == 1
    assert "second failed: ValueError: out of luck" in out
    assert "Failed: the answer is incomplete" in out


def test_a_question_ends_with_exit_code_3(shell: Shell) -> None:
    code, out, _ = shell.process("run", "flow.py", "ask", "--thread", "t1")
    assert code == 3
    assert "which one?" in out
    code, _, err = shell("run", "flow.py", "more", "--thread", "t1")
    assert code == 2
    assert "waits for an answer" in err


def test_a_database_is_looked_after(shell: Shell, any_url: str) -> None:
    for thread, command in (("t1", shell), ("t2", shell.process)):
        assert command("run", "flow.py", "x", "--thread", thread, ORCHESTRA_DB=any_url)[0] == 0
    code, out, _ = shell("db", "check", ORCHESTRA_DB=any_url)
    assert code == 0
    assert "2 threads" in out
    assert "All of it can be read." in out
    told = json.loads(shell("db", "check", "--json", ORCHESTRA_DB=any_url)[1])
    assert told["problems"] == []
    assert shell("db", "upgrade", ORCHESTRA_DB=any_url) == (0, "Version 2: nothing to upgrade.\n", "")
    assert shell("runs", "prune", "--idle", "1d", ORCHESTRA_DB=any_url)[1].startswith("Deleted 0 threads, and 0")
    code, out, _ = shell("runs", "prune", "t1", "--keep", "1", "--json", ORCHESTRA_DB=any_url)
    assert (code, json.loads(out)["checkpoints"] > 0) == (0, True)
    assert "# 1 letters" in shell("runs", "show", "t1", ORCHESTRA_DB=any_url)[1]
    assert shell("runs", "prune", "--idle", "0m", ORCHESTRA_DB=any_url)[1].startswith("Deleted 2 threads")
    assert json.loads(shell("runs", "list", "--json", ORCHESTRA_DB=any_url)[1]) == []


def test_what_is_damaged_is_named(shell: Shell) -> None:
    shell("run", "flow.py", "x", "--thread", "t1")
    with closing(sqlite3.connect(shell.folder / "runs.db")) as connection, connection:
        connection.execute("UPDATE orchestra_values SET value = x'00' WHERE channel = 'plan'")
    code, out, _ = shell("db", "check")
    assert code == 1
    assert "Damaged: checkpoint" in out
    assert "channel 'plan': its checksum does not match" in out
    code, out, err = shell("runs", "show", "t1")
    assert code == 2
    assert "thread 't1'" in err
    assert "Traceback" not in err


def test_a_database_of_another_version_is_not_touched(shell: Shell) -> None:
    shell("run", "flow.py", "x", "--thread", "t1")
    for version, said in ((1, "orchestra db upgrade"), (99, "upgrade the package")):
        with closing(sqlite3.connect(shell.folder / "runs.db")) as connection, connection:
            connection.execute(f"UPDATE orchestra_version SET version = {version}")
        for command in (["runs", "list"], ["run", "flow.py", "y"], ["resume", "t1"]):
            code, _, err = shell(*command)
            assert code == 2
            assert said in err


def test_kill_9_and_resume_by_thread_alone(shell: Shell) -> None:
    process = shell.start("run", "flow.py", "slow", "--thread", "t1")
    shell.wait_for("second")
    time.sleep(0.2)  # the first task's result is committed a few milliseconds after it ended
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out, _ = shell("runs", "list")
    assert "stopped" in out
    code, out, err = shell.process("resume", "t1", SLOW="0.1")
    assert (code, err) == (0, "")
    assert "1 finished earlier: first" in out
    assert "# 4 letters" in out
    assert shell.log() == ["first", "second", "second"]
    code, out, _ = shell("resume", "t1")
    assert code == 0
    assert "nothing is left to resume" in out


def test_ctrl_c_drains_within_the_grace_and_tells_how_to_go_on(shell: Shell) -> None:
    process = shell.start("run", "flow.py", "slow", "--thread", "t1", "--grace", "0.3")
    shell.wait_for("second")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "agents in flight get 0.3 s" in out
    assert "orchestra resume t1" in out
    assert "Traceback" not in out + err
    assert shell("resume", "t1", SLOW="0.1")[0] == 0


def test_an_agent_in_flight_may_finish_after_ctrl_c(shell: Shell) -> None:
    process = shell.start("run", "flow.py", "slow", "--thread", "t1", SLOW="1")
    shell.wait_for("second")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    results = json.loads(shell("runs", "show", "t1", "--json")[1])["results"]
    assert {task: result["status"] for task, result in results.items()} == {"first": "succeeded", "second": "succeeded"}


def test_a_thread_that_another_process_works_on_is_busy(shell: Shell) -> None:
    process = shell.start("run", "flow.py", "slow", "--thread", "t1")
    shell.wait_for("second")
    code, _, err = shell("resume", "t1")
    assert code == 2
    assert "Another run is on thread 't1'" in err
    assert "running" in shell("runs", "list")[1]
    process.kill()
    process.communicate()


def test_a_workflow_that_moved_is_named(shell: Shell) -> None:
    process = shell.start("run", "flow.py", "slow", "--thread", "t1")
    shell.wait_for("second")
    process.kill()
    process.communicate()
    (shell.folder / "flow.py").rename(shell.folder / "moved.py")
    code, _, err = shell("resume", "t1")
    assert code == 2
    assert "has moved" in err
    assert "--graph" in err
    assert shell("resume", "t1", "--graph", "moved.py", SLOW="0.1")[0] == 0


def test_the_live_display_shows_every_task(shell: Shell, tmp_path: Path) -> None:
    script = f"{sys.executable} -m orchestra.cli run flow.py hello"
    out = subprocess.run(
        ["script", "-qec", script, "/dev/null"], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert out.returncode == 0
    assert "✓ succeeded" in out.stdout
    assert "5 letters" in out.stdout


def test_help_needs_none_of_the_heavy_imports() -> None:
    code = """
import sys
from orchestra.cli import main
try:
    main(["--help"])
except SystemExit:
    print(sorted({"langgraph", "pydantic", "sqlalchemy", "rich"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
