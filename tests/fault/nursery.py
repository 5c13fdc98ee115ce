"""A process that has imported what test programs need and forks one for each: a program starts in milliseconds.

A program is source text; its arguments are in ``argv``. What it prints, and the traceback of its death, go to a file.
It gets no signal but those that a test sends, and dies with the test run.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A program that was started."""

    def __init__(self, nursery: Nursery, pid: int, out: Path) -> None:
        self._nursery, self.pid, self._out = nursery, pid, out
        self.status: int | None = None

    def signal(self, number: int) -> None:
        assert self.poll() is None, f"the program has ended: {self.output}"
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(10)

    def poll(self) -> int | None:
        if self.status is None:
            self.status = self._nursery.ask({"poll": self.pid})
        return self.status

    def wait(self, seconds: float) -> int:
        """The exit code; negative for a signal."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < deadline, f"still running after {seconds} s: {self.output}"
            time.sleep(0.003)
        assert self.status is not None
        return self.status

    def succeed(self, seconds: float) -> str:
        """What it printed; it must end well."""
        assert self.wait(seconds) == 0, self.output
        return self.output

    @property
    def output(self) -> str:
        return self._out.read_text(errors="replace") if self._out.exists() else ""


class Nursery:
    """The other end of the pipe to the forking process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._lock = threading.Lock()

    def ask(self, question: dict[str, Any]) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(self, program: str, *arguments: object, out: Path) -> Child:
        pid = self.ask({"program": program, "argv": [str(each) for each in arguments], "out": str(out)})
        return Child(self, pid, out)


@functools.cache
def nursery() -> Nursery:
    """The one of this test run; it ends when the run does, since its input does."""
    made = Nursery()
    assert made.ask({}) == "ready"  # the next program starts at once
    return made


def _fork(program: str, argv: list[str], out: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        exec(compile(program, "<program>", "exec"), {"argv": argv, "__name__": "program"})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _main() -> None:
    sys.path.insert(0, str(ROOT))
    sys.path.remove(str(Path(__file__).parent))
    import langgraph.checkpoint.serde.jsonplus  # noqa: F401 - what programs will want
    import sqlalchemy.dialects.sqlite  # noqa: F401
    from langgraph.checkpoint.base import empty_checkpoint  # noqa: F401

    from checkpoints import SQLAlchemySaver  # noqa: F401
    from checkpoints.dialects import mysql, postgresql, sqlite  # noqa: F401
    from orchestra import Agent, Orchestra, Workflow  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test run, whose end is the end of this
    running: set[int] = set()
    for line in sys.stdin:
        question = json.loads(line)
        if not question:
            answer = "ready"
        elif "poll" in question:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            answer = None if pid == 0 else os.waitstatus_to_exitcode(status)
            running.discard(pid)
        else:
            answer = _fork(question["program"], question["argv"], question["out"])
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _main()
