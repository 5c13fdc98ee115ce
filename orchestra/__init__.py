"""Orchestra: a workflow engine for teams of AI agents, built on LangGraph."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestra.agents import Agent, Capability, agent
    from orchestra.errors import (
        AgentError,
        OrchestraError,
        PlanError,
        RequestError,
        TaskUnsuccessful,
        ThreadBusy,
        ThreadError,
        ThreadNotFound,
        ThreadWaiting,
        WorkflowError,
        WorkflowNotFound,
    )
    from orchestra.planning import Planner
    from orchestra.runs import Orchestra, Run
    from orchestra.snapshots import Comparison, History, Moment, Outcome, RunInfo, RunState
    from orchestra.tasks import Assignment, Attempt, Plan, Result, Review, Status, Task
    from orchestra.workflow import Workflow

# Imported when first asked for: importing LangGraph takes most of a second, and `orchestra --help` needs none of it.
_HOMES = {
    "orchestra.agents": ("Agent", "Capability", "agent"),
    "orchestra.errors": (
        "AgentError",
        "OrchestraError",
        "PlanError",
        "RequestError",
        "TaskUnsuccessful",
        "ThreadBusy",
        "ThreadError",
        "ThreadNotFound",
        "ThreadWaiting",
        "WorkflowError",
        "WorkflowNotFound",
    ),
    "orchestra.planning": ("Planner",),
    "orchestra.runs": ("Orchestra", "Run"),
    "orchestra.snapshots": ("Comparison", "History", "Moment", "Outcome", "RunInfo", "RunState"),
    "orchestra.tasks": ("Assignment", "Attempt", "Plan", "Result", "Review", "Status", "Task"),
    "orchestra.workflow": ("Workflow",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll] -- resolved by __getattr__
    "Agent",
    "AgentError",
    "Assignment",
    "Attempt",
    "Capability",
    "Comparison",
    "History",
    "Moment",
    "Orchestra",
    "OrchestraError",
    "Outcome",
    "Plan",
    "PlanError",
    "Planner",
    "RequestError",
    "Result",
    "Review",
    "Run",
    "RunInfo",
    "RunState",
    "Status",
    "Task",
    "TaskUnsuccessful",
    "ThreadBusy",
    "ThreadError",
    "ThreadNotFound",
    "ThreadWaiting",
    "Workflow",
    "WorkflowError",
    "WorkflowNotFound",
    "agent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'orchestra' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
