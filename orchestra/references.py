"""References to workflows: how the terminal, and a run that is resumed, find the code.

`NAME` is a workflow in the folder `graphs/` of the current directory, `file.py:variable` a file, and
`package.module:variable` a module. Without a variable, `flow` is taken, or the only workflow there is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from orchestra.errors import OrchestraError, WorkflowError, WorkflowNotFound
from orchestra.snapshots import RunInfo
from orchestra.workflow import Workflow

GALLERY = Path("graphs")


def gallery() -> list[str]:
    """Names of the workflows in `graphs/` of the current directory."""
    return sorted(p.stem for p in GALLERY.glob("*.py") if not p.stem.startswith("_"))


def load(reference: str) -> Workflow:
    """Import a workflow.

    Raises:
        WorkflowNotFound: The file, module or variable does not exist, or is not a workflow.
    """
    place, _, variable = reference.rpartition(":") if ":" in reference else (reference, "", "")
    if place.endswith(".py"):
        module = _from_file(Path(place))
    elif place.isidentifier() and (GALLERY / f"{place}.py").is_file():
        module = _from_file(GALLERY / f"{place}.py")
    else:
        module = _from_module(place, reference)
    return _pick(module, variable, reference)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise WorkflowNotFound(f"There is no file {path}.")
    path = path.resolve()
    here = Path.cwd()
    parts = path.relative_to(here).with_suffix("").parts if path.is_relative_to(here) else ()
    # A file below the current directory is imported under its dotted name, so that its neighbours can be imported too.
    if parts and all(part.isidentifier() for part in parts) and parts[0] not in sys.stdlib_module_names:
        _put_first(here)
        return _import(".".join(parts), str(path))
    _put_first(path.parent)
    _put_first(path.parent.parent)
    name = f"orchestra_file_{path.stem}_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkflowNotFound(f"{path} can't be imported as Python.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OrchestraError:
        raise
    except (Exception, SystemExit) as error:
        raise WorkflowNotFound(_why(path, error)) from error
    return module


def _from_module(name: str, reference: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise WorkflowNotFound(
            f"{reference!r} names no workflow. Use a name in graphs/, file.py:variable or package.module:variable."
        )
    _put_first(Path.cwd())
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        there = ", ".join(gallery()) or "none; there is no graphs/ folder here"
        raise WorkflowNotFound(f"There is no workflow or module {name!r}. Workflows in graphs/: {there}.")
    return _import(name, reference)


def _import(name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except OrchestraError:
        raise
    except (Exception, SystemExit) as error:
        raise WorkflowNotFound(_why(reference, error)) from error


def _why(place: object, error: BaseException) -> str:
    return (
        f"{place} can't be imported: {type(error).__name__}: {error}. (What a script is to run, and not to define, "
        'belongs under: if __name__ == "__main__".)'
    )


def _put_first(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _pick(module: ModuleType, variable: str, reference: str) -> Workflow:
    flows = {name: value for name, value in vars(module).items() if isinstance(value, Workflow)}
    if variable:
        if variable not in flows:
            there = ", ".join(flows) or "none"
            raise WorkflowNotFound(f"{reference}: there is no workflow {variable!r}; workflows there: {there}.")
        return flows[variable]
    if "flow" in flows:
        return flows["flow"]
    if len(flows) != 1:
        there = ", ".join(flows) or "none"
        raise WorkflowNotFound(f"{reference}: say which workflow, as {reference}:NAME. Workflows there: {there}.")
    return next(iter(flows.values()))


def workflow_of(info: RunInfo, workflow: Workflow | None) -> Workflow:
    """The workflow of a thread: the one that is given, if it fits, or the one that is recorded.

    Raises:
        WorkflowError: The one that is given is another.
        WorkflowNotFound: The recorded one can't be imported.
    """
    if workflow is not None:
        if workflow.name != info.workflow:
            raise WorkflowError(
                f"Thread {info.thread_id!r} is a run of the workflow {info.workflow!r}, not of {workflow.name!r}."
            )
        return workflow
    if not info.reference:
        raise WorkflowNotFound(
            f"Where the workflow {info.workflow!r} of thread {info.thread_id!r} lives is not recorded: pass "
            "workflow=, or --graph on the command line."
        )
    try:
        return load(info.reference)
    except WorkflowNotFound as error:
        raise WorkflowNotFound(
            f"The workflow of thread {info.thread_id!r} has moved: {str(error).rstrip('.')}. Say where it is now: pass "
            "workflow=, or --graph on the command line."
        ) from error
