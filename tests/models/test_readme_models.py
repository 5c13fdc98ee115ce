"""The README's example of real models runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes import Fake, ToolCall

ROOT = Path(__file__).parents[2]


def system(text: str) -> Any:
    return lambda body: text in str(body["messages"][0]["content"])


def test_the_desk_of_models(fake: Fake, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [example] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "ModelPlanner" in code]
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    tasks = [
        {"id": "find", "instruction": "Find out", "agent": "researcher", "needs": []},
        {"id": "write", "instruction": "Write", "agent": "writer", "needs": ["find"]},
    ]
    fake.when("Call the tool ping", ToolCall("ping", {}))
    fake.when(system("You plan the work"), {"tasks": tasks})
    fake.when(system("You check the work"), {"answered": True, "missing": [], "contradictions": [], "plan": None})
    fake.when(system("You find facts"), [ToolCall("search", {"query": "bees"}), {"facts": ["they dance"]}])
    fake.when(system("You write"), "They dance. It shows where.")
    environment = {**os.environ, "OPENAI_BASE_URL": fake.url, "OPENAI_API_KEY": "not-needed", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "example.py"]
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    made_by, answer, *usage = out.stdout.splitlines()
    assert made_by == "my-model ()"
    assert answer == "They dance. It shows where."
    assert [line.partition(" input")[0] for line in usage] == ["researcher calls=3", "writer calls=1"]
    [asked] = [request.body for request in fake.requests if system("You write")(request.body)][-1:]
    assert '<data source="find">' in asked["messages"][1]["content"]
    assert "they dance" in asked["messages"][1]["content"]
    assert "Bees dance" not in str(asked)  # what the tool said to the researcher is the researcher's own affair
