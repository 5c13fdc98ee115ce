"""Answer a question from a folder of your own documents and data files, with every statement's evidence beside it.

    orchestra run research_desk "Does the report's claim about mean downtime agree with the job data? folder: ~/papers"

    researcher ─┐
                ├─ communicator, reviewed by reviewer
    coder ──────┘

The researcher finds quotes in the documents; the coder computes from the data files, by a small Python program that
runs in a process of its own with limits and without network; the communicator writes the answer, whose every statement
cites quotes or computations; the reviewer holds each statement against what it cites, sends back what is not supported,
and strikes out what still is not.

Without a model the specialists work by rules, which is extractive and says so (`_desk_rules`). With `ORCHESTRA_MODEL`
set, and `OPENAI_API_KEY` or `OPENAI_BASE_URL`, a model makes the plan, plays the roles and looks at the finished work
(`_desk_model`); the rules are the backups, and the flow above is the plan if the model has none. The reviewer is rules
in both cases.

The folder is named in the request (`folder: PATH`), or by RESEARCH_DESK_FOLDER; else the desk works on sample documents
and says so. What documents say is evidence and never an instruction: neither plan nor tools depend on it.
RESEARCH_DESK_TOKENS is what a turn may take, 200,000 tokens by default.
"""

import asyncio
from typing import Any

from langgraph.types import RetryPolicy

from graphs import _desk_brief, _desk_model, _desk_rules
from graphs._desk import Computations, Findings, desk_for, desk_of
from graphs._desk_brief import Evidence
from graphs._environment import model_from_environment, number_from_environment
from orchestra import Agent, Assignment, Budget, Review, Workflow

EXAMPLE = "Does the mean downtime of weeks 5 to 8 in the maintenance report agree with the job data?"
MAX_TASKS = 12  # of a plan, with what a review adds


def check_request(request: str) -> None:
    """Read the folder that the request names, so that a bad one is reported before any agent runs.

    Raises:
        RequestError: names the folder and the remedy; the grammar is in `graphs._desk.GRAMMAR`.
    """
    desk_for(request).read()


def research(task: Assignment) -> Findings:
    """Find what the documents say, as quotes with their places."""
    desk = desk_of(task)
    return _desk_rules.research(desk.question, desk.read())


async def compute(task: Assignment) -> Computations:
    """Compute from the data files, by a small program; its code and output are kept."""
    desk = desk_of(task)
    return await _desk_rules.compute(desk, await asyncio.to_thread(desk.read))


def communicate(task: Assignment) -> str:
    """Write the answer for the user from what the others found and computed, with the evidence."""
    desk = desk_of(task)
    return _desk_brief.brief(desk, desk.read(), Evidence(task.inputs.values()))


def review(task: Assignment, drafts: list[str]) -> Review:
    """Hold each statement of an answer against the evidence that it cites; offer the answer without the others."""
    return _desk_brief.review(drafts[-1], Evidence(task.inputs.values()), desk_of(task).question)


# role: (its rules, its capability)
ROLES = {
    "researcher": (research, "research"),
    "coder": (compute, "coding"),
    "communicator": (communicate, "communication"),
}


def build(model: Any = None, *, tokens: int = 200_000, max_tokens: int = 2000) -> Workflow:
    """The workflow; with a chat model, it plans, plays the roles and looks at the work, and the rules are backups.

    Args:
        model: a chat model.
        tokens: what a turn may take in all.
        max_tokens: the limit of one answer of the model.
    """
    flow = Workflow(
        "research_desk",
        planner=model and _desk_model.DeskPlanner(model, instructions=_desk_model.PLANNING, max_tokens=max_tokens),
        reviewer=model and _desk_model.DeskReviewer(model, rounds=1, max_added=4, max_tokens=max_tokens),
        budget=Budget(tokens=tokens) if model else None,
        check=check_request,
        example=EXAMPLE,
        max_tasks=MAX_TASKS,
    )
    played = _desk_model.roles(model, max_tokens) if model else {}
    for role, (rules, capability) in ROLES.items():
        says = {"capabilities": [capability], "description": rules.__doc__ or ""}
        if role in played:
            # The rules stand by: no need to insist.
            flow.add_agent(Agent(role, played[role], timeout=180, retry=RetryPolicy(max_attempts=2), **says))
            flow.add_agent(Agent(f"offline_{role}", rules, timeout=60, **says), backup_for=role)
        else:
            flow.add_agent(Agent(role, rules, timeout=60, **says))
    flow.add_edge(["researcher", "coder"], "communicator", optional=True)
    flow.add_agent(Agent("reviewer", review, capabilities=["review"], timeout=60))
    flow.add_review("communicator", by="reviewer", rounds=1)
    return flow


flow = build(model_from_environment(), tokens=number_from_environment("RESEARCH_DESK_TOKENS", 200_000))
