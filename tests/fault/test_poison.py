"""The poison guard: a task whose agent takes the process down is given up, and the rest of the run survives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("poison.py")


def test_a_task_that_kills_its_process_is_given_up_and_its_sibling_ran_once(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), f"sqlite:///{tmp_path / 'runs.db'}", str(tmp_path / "log")]
    runs = [subprocess.run(command, capture_output=True, text=True, timeout=60, check=False) for _ in range(3)]
    assert [run.returncode for run in runs] == [9, 9, 0], runs[2].stderr
    assert "['crashed', 'crashed']" in runs[2].stdout
    assert "went down with the process 2 times" in runs[2].stdout
    assert sorted((tmp_path / "log").read_text().split()) == ["healthy", "poisoned", "poisoned"]
