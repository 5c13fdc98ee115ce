"""Thirty requests in free text to a planner that is a very small model: what becomes of them.

    python tests/benchmarks/thirty_requests.py [--max-tokens 400] [--max-tasks 3] [--show]

Claimed: whatever the model writes, each run has a sound plan of known agents without a cycle, and ends without an
exception. The model is SmolLM2-135M-Instruct, which is far too small to plan well: this measures what happens when a
planner is bad, and not how good plans are. There are three rosters and ten requests for each; the agents do nothing.
Two servers of the model, of one thread each, share the requests.

A plan is the model's own if nothing of it had to be changed, after one correction at most; repaired, if what was still
wrong then was taken away or made plain; the fallback is made of the workflow's types, here: every agent at once. Small
limits keep it to minutes: a draft is cut after so many tokens and asked for again with four times as many.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai
from _models import machine, verdict
from langchain_openai import ChatOpenAI

from orchestra import Agent, Assignment, Capability, ModelPlanner, Plan, PlanError, Workflow
from orchestra.planning import check_plan
from tests import smollm

ROSTERS: dict[str, tuple[dict[str, tuple[str, str]], list[str]]] = {
    "newsroom": (
        {
            "reporter": ("Finds out what happened, with sources.", "research"),
            "archivist": ("Looks up what was written before, in the archive.", "research"),
            "checker": ("Checks figures and quotes against their sources.", "fact checking"),
            "writer": ("Writes articles in plain language.", "writing"),
        },
        """Write a short article about the new tram line that opens on Monday.
Is it true that the city has lost a tenth of its trees in five years?
Compare what the two candidates said about rents last week.
We need a background piece on the old harbour, with dates.
Check the figures in yesterday's story on school meals and correct it.
What did we write about the bridge before it was closed?
Explain the new parking rules in five sentences.
Find three people who were at the flood in 1997 and say what they remember.
Write a portrait of the new head of the orchestra and have every date checked.
Sum up this morning's council meeting.""".splitlines(),
    ),
    "software": (
        {
            "analyst": ("Turns wishes into requirements.", "requirements"),
            "architect": ("Designs modules and interfaces.", "design"),
            "developer": ("Writes Python code with types.", "coding"),
            "fixer": ("Finds the cause of faults and repairs them.", "coding"),
            "tester": ("Writes and runs tests.", "testing"),
            "author": ("Writes manuals and release notes.", "documentation"),
        },
        """Users can't log in since Tuesday's release; find out why and repair it.
Add an export to CSV, with tests and a page in the manual.
Our import takes an hour for a million rows. It should take five minutes.
Write release notes for version 2.4.
Which modules would have to change if we stored dates in UTC?
Design an interface for plug-ins and write an example plug-in.
There are no tests for the billing module. Write some.
A customer wants to hide prices from guests; write down what that means exactly.
Rename the option --quiet to --silent everywhere, keep the old one working, and tell users.
Is the cache still needed? Measure, decide, and remove it if not.""".splitlines(),
    ),
    "office": (
        {
            "clerk": ("Reads and files letters and invoices.", "filing"),
            "accountant": ("Books payments and prepares balance sheets.", "finance"),
            "controller": ("Forecasts costs and compares budgets.", "finance"),
            "lawyer": ("Reads contracts and finds risky clauses.", "law"),
            "translator": ("Translates between German, French and English.", "translation"),
            "planner": ("Arranges meetings, trips and rooms.", "scheduling"),
            "recruiter": ("Reads applications and invites candidates.", "hiring"),
            "editor": ("Words letters and announcements.", "writing"),
        },
        """Our supplier in Lyon sent a contract in French. May we sign it?
Plan a trip to Vienna for four people in May and say what it will cost.
Tell all employees that the office is closed on Friday.
The invoice from Weber is higher than their offer. What do we do?
Find someone for the open position in accounting.
How much did we spend on travel last year, and how much will it be this year?
Translate the safety rules into English and German and send them to everyone.
Can we end the rent of the second floor before December, and what would that save?
Prepare the meeting of shareholders: room, invitations, balance sheet.
Answer the letter from the tax office.""".splitlines(),
    ),
}


@dataclass
class Outcome:
    made: str  # "model", "repaired", "fallback", or what was raised
    valid: bool = False
    ended: bool = False
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    told: str = ""


def agents_of(team: dict[str, tuple[str, str]]) -> list[Agent]:
    def act(name: str) -> Callable[[Assignment], str]:
        def run(task: Assignment) -> str:
            return f"{name} did: {task.task.instruction}"

        return run

    return [
        Agent(name, act(name), description=description, capabilities=[Capability(skill)])
        for name, (description, skill) in team.items()
    ]


class ShortPlanner(ModelPlanner):
    """Plans of a few tasks; the workflow itself allows more, because its fallback has one for each agent."""

    most = 3

    async def plan(self, request: str, *, limit: int = 0, **more: Any) -> Plan:
        return await super().plan(request, limit=self.most, **more)


async def ask(flow: Workflow, request: str) -> Outcome:
    began = time.perf_counter()
    try:
        state = await flow.compile().ainvoke({"request": request})
    except Exception as error:
        return Outcome(f"raised {type(error).__name__}: {error}", seconds=time.perf_counter() - began)
    plan: Plan = state["plan"]
    own = plan.made_by == smollm.MODEL
    try:
        check_plan(plan.checked(), {agent.name: agent for agent in flow.roster.values()}, limit=len(flow.roster))
        valid = True
    except PlanError:
        valid = False
    return Outcome(
        made="fallback" if not own else "repaired" if plan.repairs else "model",
        valid=valid,
        ended=bool(state["answer"]) and all(result.ok for result in state["results"].values()),
        calls=plan.usage.calls,
        tokens=plan.usage.output_tokens,
        seconds=time.perf_counter() - began,
        told="; ".join([*(f"{t.agent}({', '.join(t.needs)})" for t in plan.tasks), *plan.repairs])[:300],
    )


def row(name: str, found: list[Outcome]) -> None:
    def mean(what: str) -> float:
        return statistics.mean(getattr(each, what) for each in found)

    made = Counter(each.made for each in found)
    seconds = sorted(each.seconds for each in found)
    print(
        f"{name:<10} {len(found):>8} {sum(each.ended for each in found):>6} {sum(each.valid for each in found):>6} "
        f"{made['model']:>8} {made['repaired']:>9} {made['fallback']:>9} {mean('calls'):>6.1f} {mean('tokens'):>7.0f} "
        f"{statistics.median(seconds):>7.1f} {seconds[-1]:>6.1f}",
        flush=True,
    )


async def compare(urls: list[str], args: argparse.Namespace) -> list[Outcome]:
    client = openai.DefaultAsyncHttpxClient(verify=False)
    free: asyncio.Queue[ChatOpenAI] = asyncio.Queue()
    for url in urls:
        calm = {"repeat_penalty": 1.15, "repeat_last_n": 256}  # without it this model repeats itself up to the limit
        options = {"temperature": 0, "extra_body": calm, "max_retries": 0, "http_async_client": client}
        free.put_nowait(ChatOpenAI(base_url=url, api_key="x", model=smollm.MODEL, **options))

    async def one(name: str, request: str) -> Outcome:
        model = await free.get()
        planner = ShortPlanner(model, max_tokens=args.max_tokens)
        planner.most = args.max_tasks
        try:
            return await ask(Workflow(name, agents=agents_of(ROSTERS[name][0]), planner=planner), request)
        finally:
            free.put_nowait(model)

    found: list[Outcome] = []
    for name, (_, requests) in ROSTERS.items():
        mine = await asyncio.gather(*(one(name, request) for request in requests))
        row(name, mine)
        for request, each in zip(requests, mine, strict=True):
            if args.show or each.made.startswith("raised"):
                print(f"  {request}\n    {each.made}: {each.told}")
        found += mine
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--max-tasks", type=int, default=3)
    parser.add_argument("--show", action="store_true", help="print each plan")
    args = parser.parse_args()
    if reason := smollm.missing():
        print(f"thirty requests: not measured: {reason}")
        return
    began = time.perf_counter()
    print(f"{machine()}; {smollm.MODEL}, greedy; drafts of {args.max_tokens} tokens and {args.max_tasks} tasks at most")
    print(
        f"{'':<10} {'':>8} {'runs':>6} {'valid':>6} {'plan made by':>28} {'mean per plan':>14} {'seconds a plan':>14}"
    )
    titles = f"{'model':>8} {'repaired':>9} {'fallback':>9} {'calls':>6} {'tokens':>7} {'median':>7} {'worst':>6}"
    print(f"{'roster':<10} {'requests':>8} {'ended':>6} {'plans':>6} {titles}", flush=True)
    with smollm.serve() as first, smollm.serve() as second:  # each computes in one thread
        found = asyncio.run(compare([first, second], args))
    row("all", found)
    verdict("every run ends, with a valid plan", all(each.ended and each.valid for each in found))
    print(f"{machine()}; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
