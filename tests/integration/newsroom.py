"""What tests of contradictions share: agents that count their calls and claim things about a revenue."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from orchestra import (
    Agent,
    Arbiter,
    Assignment,
    Claim,
    Conflict,
    Verdict,
    Workflow,
)
from orchestra.events import ClaimsSettled

THREAD: Any = {"configurable": {"thread_id": "t"}}


def revenue(value: Any, **more: Any) -> Claim:
    return Claim(subject="ACME", attribute="revenue", value=value, **more)


class Finding(BaseModel):
    claims: list[Claim] = []

    @property
    def said(self) -> list[Any]:
        return [claim.value for claim in self.claims]


@dataclass
class Newsroom:
    """Agents that count their calls, and remember what they were given."""

    calls: Counter[str] = field(default_factory=Counter)
    given: dict[str, list[Assignment]] = field(default_factory=lambda: defaultdict(list))

    def says(self, name: str, *said: Any, after: Callable[[], Any] | None = None, **more: Any) -> Agent:
        """Claims something about a revenue: at its n-th call the n-th, at later ones the last."""

        async def run(task: Assignment) -> Finding:
            self.calls[name] += 1
            self.given[name].append(task)
            if after is not None:
                await after()
            one = said[min(self.calls[name], len(said)) - 1] if said else None
            return Finding(claims=[] if one is None else [one if isinstance(one, Claim) else revenue(one)])

        return Agent(name, run, **more)

    def reads(self, name: str, after: Callable[[], Any] | None = None, **more: Any) -> Agent:
        """Says what the claims in its inputs say."""

        async def run(task: Assignment) -> str:
            self.calls[name] += 1
            self.given[name].append(task)
            if after is not None:
                await after()
            inputs = {need: one.said if isinstance(one, Finding) else one for need, one in task.inputs.items()}
            return " ".join(f"{need}={inputs[need]}" for need in sorted(inputs))

        return Agent(name, run, **more)

    def judge(self, *winners: int | Exception | None, **more: Any) -> Agent:
        async def judge(conflict: Conflict) -> Verdict:
            self.calls["judge"] += 1
            winner = winners[min(self.calls["judge"], len(winners)) - 1]
            if isinstance(winner, Exception):
                raise winner
            return Verdict(winner, "it reads well")

        return Agent("judge", judge, **more)


def flow_of(
    *edges: tuple[str | list[str], str], agents: Sequence[Agent], settle: Sequence[Any], **more: Any
) -> Workflow:
    flow = Workflow("w", agents=agents, settle=settle, **more)
    for start, end in edges:
        flow.add_edge(start, end)
    return flow


def killing(log: str, moment: str) -> Workflow:
    """`late` with an arbiter; it logs each call to a file, and its process dies at one of them."""

    async def note(name: str) -> None:
        with Path(log).open("a") as file:
            file.write(f"{name}\n")
        if moment == f"{name} {Path(log).read_text().split().count(name)}":
            await asyncio.sleep(0.3)  # what it rests on is stored some milliseconds after it began
            os.kill(os.getpid(), signal.SIGKILL)

    async def judge(conflict: Conflict) -> Verdict:
        await note("judge")
        return Verdict(1, "it reads well")

    room = Newsroom()
    agents = [room.says("a", 5, after=lambda: note("a")), room.says("b", 7, after=lambda: note("b"))]
    agents += [room.reads(name, lambda name=name: note(name)) for name in ("draft", "final")]
    edges = [("a", "draft"), ("draft", "final")]
    return flow_of(*edges, agents=[*agents, Agent("judge", judge)], settle=[Arbiter("judge")])


def late(room: Newsroom, settle: Sequence[Any], **more: Any) -> Workflow:
    """What `a` claims is used by `draft`, and that by `final`, before `b` contradicts it at the end."""
    agents = [room.says("a", "5 kg"), room.says("b", "7 kg"), room.reads("draft"), room.reads("final")]
    agents += more.pop("agents", [])
    return flow_of(("a", "draft"), ("draft", "final"), *more.pop("edges", []), agents=agents, settle=settle, **more)


async def told(flow: Workflow) -> tuple[dict[str, Any], list[ClaimsSettled]]:
    events: list[ClaimsSettled] = []
    state: dict[str, Any] = {}
    async for mode, chunk in flow.compile().astream({"request": "go"}, stream_mode=["custom", "values"]):
        if mode == "values":
            state = chunk
        elif isinstance(chunk, ClaimsSettled):
            events.append(chunk)
    return state, events
