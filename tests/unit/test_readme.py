"""The README's Python runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_examples_run_and_print_what_they_promise(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "example.py").write_text("\n".join(examples[:3]), encoding="utf-8")
    out = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = out.stdout.splitlines()
    assert lines[:3] == ["someone asked: why?"] * 2 + ["someone asked: how?"]
    assert any("succeeded  writer" in line for line in lines[3:-3])  # watched
    assert lines[-3:] == ["someone asked: and how?", "nothing was found", "['researcher', 'writer']"]
    assert out.stderr == ""


def test_the_team_that_heals_runs_and_prints_what_it_promises(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    found = re.search(r"```python\n((?:(?!```).)*People\(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)
    assert found is not None
    (tmp_path / "example.py").write_text(found[1], encoding="utf-8")
    out = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout == found[2]
    assert out.stderr == ""


def test_it_names_only_files_that_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / name).exists(), name
