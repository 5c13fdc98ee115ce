"""Orchestra: a workflow engine for teams of AI agents, built on LangGraph."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestra.agents import Agent, Capability, agent
    from orchestra.assignments import Assignment, Memo
    from orchestra.budgets import Budget, ModelTerms
    from orchestra.claims import Claim, Conflict, Resolution
    from orchestra.clinic import Checkup
    from orchestra.conduct import People
    from orchestra.decisions import Decision
    from orchestra.errors import (
        AgentError,
        AttemptOver,
        BudgetExceeded,
        ModelRefused,
        NoPlan,
        OrchestraError,
        PlanError,
        ReplayDiverged,
        RequestError,
        TaskUnsuccessful,
        ThreadBusy,
        ThreadError,
        ThreadNotFound,
        ThreadWaiting,
        WorkflowError,
        WorkflowNotFound,
    )
    from orchestra.memory import Memory
    from orchestra.models.asking import ask_model
    from orchestra.planners import ModelPlanner, ModelReviewer
    from orchestra.planning import Planner
    from orchestra.policies import Arbiter, AskPerson, ByConfidence, ByMajority, ByRecency, ByTrust, Prefer, Verdict
    from orchestra.probes import Probe
    from orchestra.processes import Finished, run_process, run_process_sync, safe_point
    from orchestra.questions import Question, ask
    from orchestra.replays import Replayed
    from orchestra.run import Run
    from orchestra.runs import Orchestra, Ticked
    from orchestra.snapshots import Comparison, History, Moment, Outcome, RunInfo, RunList, RunState
    from orchestra.standing import AgentNote, AgentStanding, Standing, TaskStanding
    from orchestra.tasks import (
        Attempt,
        Delegate,
        Judgement,
        OutOfScope,
        Plan,
        Result,
        Review,
        Status,
        Task,
        Usage,
    )
    from orchestra.timers import wait_for, wait_until
    from orchestra.values import Comparing
    from orchestra.vitals import Breaker
    from orchestra.workflow import Workflow

# Imported when first asked for: importing LangGraph takes most of a second, and `orchestra --help` needs none of it.
_HOMES = {
    "orchestra.agents": (
        "Agent",
        "Capability",
        "agent",
    ),
    "orchestra.assignments": (
        "Assignment",
        "Memo",
    ),
    "orchestra.budgets": (
        "Budget",
        "ModelTerms",
    ),
    "orchestra.claims": (
        "Claim",
        "Conflict",
        "Resolution",
    ),
    "orchestra.clinic": ("Checkup",),
    "orchestra.conduct": ("People",),
    "orchestra.decisions": ("Decision",),
    "orchestra.errors": (
        "AgentError",
        "AttemptOver",
        "BudgetExceeded",
        "ModelRefused",
        "NoPlan",
        "OrchestraError",
        "PlanError",
        "ReplayDiverged",
        "RequestError",
        "TaskUnsuccessful",
        "ThreadBusy",
        "ThreadError",
        "ThreadNotFound",
        "ThreadWaiting",
        "WorkflowError",
        "WorkflowNotFound",
    ),
    "orchestra.memory": ("Memory",),
    "orchestra.models.asking": ("ask_model",),
    "orchestra.planners": (
        "ModelPlanner",
        "ModelReviewer",
    ),
    "orchestra.planning": ("Planner",),
    "orchestra.policies": (
        "Arbiter",
        "AskPerson",
        "ByConfidence",
        "ByMajority",
        "ByRecency",
        "ByTrust",
        "Prefer",
        "Verdict",
    ),
    "orchestra.probes": ("Probe",),
    "orchestra.processes": (
        "Finished",
        "run_process",
        "run_process_sync",
        "safe_point",
    ),
    "orchestra.questions": (
        "Question",
        "ask",
    ),
    "orchestra.replays": ("Replayed",),
    "orchestra.run": ("Run",),
    "orchestra.runs": (
        "Orchestra",
        "Ticked",
    ),
    "orchestra.snapshots": (
        "Comparison",
        "History",
        "Moment",
        "Outcome",
        "RunInfo",
        "RunList",
        "RunState",
    ),
    "orchestra.standing": (
        "AgentNote",
        "AgentStanding",
        "Standing",
        "TaskStanding",
    ),
    "orchestra.tasks": (
        "Attempt",
        "Delegate",
        "Judgement",
        "OutOfScope",
        "Plan",
        "Result",
        "Review",
        "Status",
        "Task",
        "Usage",
    ),
    "orchestra.timers": (
        "wait_for",
        "wait_until",
    ),
    "orchestra.values": ("Comparing",),
    "orchestra.vitals": ("Breaker",),
    "orchestra.workflow": ("Workflow",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll] -- resolved by __getattr__
    "Agent",
    "AgentError",
    "AgentNote",
    "AgentStanding",
    "Arbiter",
    "AskPerson",
    "Assignment",
    "Attempt",
    "AttemptOver",
    "Breaker",
    "Budget",
    "BudgetExceeded",
    "ByConfidence",
    "ByMajority",
    "ByRecency",
    "ByTrust",
    "Capability",
    "Checkup",
    "Claim",
    "Comparing",
    "Comparison",
    "Conflict",
    "Decision",
    "Delegate",
    "Finished",
    "History",
    "Judgement",
    "Memo",
    "Memory",
    "ModelPlanner",
    "ModelRefused",
    "ModelReviewer",
    "ModelTerms",
    "Moment",
    "NoPlan",
    "Orchestra",
    "OrchestraError",
    "OutOfScope",
    "Outcome",
    "People",
    "Plan",
    "PlanError",
    "Planner",
    "Prefer",
    "Probe",
    "Question",
    "ReplayDiverged",
    "Replayed",
    "RequestError",
    "Resolution",
    "Result",
    "Review",
    "Run",
    "RunInfo",
    "RunList",
    "RunState",
    "Standing",
    "Status",
    "Task",
    "TaskStanding",
    "TaskUnsuccessful",
    "ThreadBusy",
    "ThreadError",
    "ThreadNotFound",
    "ThreadWaiting",
    "Ticked",
    "Usage",
    "Verdict",
    "Workflow",
    "WorkflowError",
    "WorkflowNotFound",
    "agent",
    "ask",
    "ask_model",
    "run_process",
    "run_process_sync",
    "safe_point",
    "wait_for",
    "wait_until",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'orchestra' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
