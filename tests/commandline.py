"""The command line as tests call it: in this process, which is quick, or in one of its own, where that is the point."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestra.cli import main

WIDE = {"COLUMNS": "240"}


class CommandLine:
    """Commands typed in a folder.

    A call runs one in this process and returns its exit code and what it printed. It imports workflows of the folder
    anew, as a new process would, and leaves nothing of them behind.

    Args:
        folder: The current directory.
        patch: Takes back what is changed, after the test.
        printed: What is printed in this process.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, printed: pytest.CaptureFixture[str]) -> None:
        self.folder, self._printed = folder, printed
        patch.chdir(folder)
        patch.delenv("ORCHESTRA_DB", raising=False)

    def __call__(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        importlib.invalidate_caches()  # a file may be younger than the clock of the file system can tell
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path])
            for name, value in {**WIDE, **env}.items():
                patch.setenv(name, value)
            try:
                code = main(arguments)
            except SystemExit as stop:  # as argparse ends
                code = int(stop.code or 0)
        for name, module in [*sys.modules.items()]:
            if str(getattr(module, "__file__", None)).startswith(f"{self.folder.resolve()}/"):
                del sys.modules[name]
        said = self._printed.readouterr()
        return code, said.out, said.err

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestra", *arguments],
            cwd=self.folder,
            env={**os.environ, **WIDE, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process(self, *arguments: str, **env: str) -> tuple[int, str, str]:
        """Like a call, but in a process of its own."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err
