"""Budgets under parallel work: 64 children spend from one, and none of it is overshot.

    python tests/benchmarks/overshoot.py [--repeat 3]

Claimed: whatever is limited -- tokens, money by a price list, money by the endpoint's bill, calls -- what is spent by
the endpoint's own books is never above the limit, in a flat team and in teams of teams of teams, where two of the teams
have a budget of their own. The limit is 40 % of what all the work would take. Each child asks a model about a page and
then to check its own answer; answers have 5 to 300 words, so nobody knows beforehand what a call takes.

The peer does the same work with a check before each call, as is usual: LangChain's `UsageMetadataCallbackHandler`
counts the tokens of finished calls, and whoever finds the limit reached stops. Calls under way are not in that count.
(For calls alone a peer could count starts; it is shown with finished calls, like the rest.)

What is spent is read from the endpoint's books and not from Orchestra's; that both agree is checked as well. The model
is the tests' fake endpoint: median 80 ms to the first token, 1 ms per token. An answer is limited to 320 tokens, except
in the row that says so: there a call must reserve all that is usual, or left, so few run at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from _models import BookedFake, Served, chat, machine, spread, verdict, words
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

from orchestra import Agent, Assignment, Budget, ModelTerms, Plan, Task, Workflow, ask_model
from tests.replies import answer

CHILDREN = 64
SHARE = 0.4  # of all the work
LIMIT = 320
TERMS = ModelTerms(input_price=2.5, output_price=10.0)
OWN = (1, 3)  # of the four outermost teams, those with a budget of their own


@dataclass(frozen=True)
class Case:
    name: str
    of: str  # the dimension
    nested: bool = False
    billed: bool = False
    limit: int | None = LIMIT
    at_once: int | None = None


CASES = [
    Case("tokens", "tokens"),
    Case("tokens, answers not limited", "tokens", limit=None),
    Case("tokens, 8 children at a time", "tokens", at_once=8),
    Case("money", "money"),
    Case("money, by the bill only", "money", billed=True),
    Case("calls", "calls"),
    Case("tokens, teams in teams", "tokens", nested=True),
    Case("calls, teams in teams", "calls", nested=True),
]


def questions(page: int, said: str = "") -> list[Any]:
    asked = [HumanMessage(f"<page {page}>. Sum it up.\n\n{words(f'page {page}', 20, 120)}")]
    return [*asked, AIMessage(said), HumanMessage(f"Check this. <check {page}>.")] if said else asked


async def child(page: int, ask: Callable[[list[Any]], Any]) -> str:
    return await ask(questions(page, await ask(questions(page))))


def rules(fake: BookedFake, seed: int, *, billed: bool) -> None:
    fake.reset()
    fake.latency((0.08, 0.5), (0.001, 0.3), seed=seed, chunk=25)
    for page in range(CHILDREN):
        said = words(f"first {seed} {page}", 5, 300)
        for mark, text, asked in (
            (f"<check {page}>.", words(f"second {seed} {page}", 5, 300), questions(page, said)),
            (f"<page {page}>.", said, questions(page)),
        ):
            size = sum(4 + len(message.text.split()) for message in asked)
            cost = TERMS.cost(size, len(text.split())) if billed else None
            fake.when(mark, replace(answer(text), cost=cost))


def amount(of: str, served: Sequence[Served]) -> float:
    if of == "calls":
        return len(served)
    if of == "tokens":
        return sum(each.tokens for each in served)
    return sum(TERMS.cost(each.input_tokens, each.output_tokens) or 0.0 for each in served)


# Orchestra


class Pages:
    """A plan with a task for each page."""

    def __init__(self, pages: Sequence[int]) -> None:
        self._plan = Plan(tasks=tuple(Task(id=f"page {n}", agent="reader", instruction=str(n)) for n in pages))

    def plan(self, request: str, **_: Any) -> Plan:
        return self._plan


def workflow(case: Case, model: ChatOpenAI, limit: float) -> Workflow:
    async def read(task: Assignment) -> str:
        return await child(int(task.task.instruction), lambda asked: ask_model(model, asked, max_tokens=case.limit))

    def team(name: str, pages: Sequence[int], depth: int, own: float | None, **more: Any) -> Workflow:
        budget = None if own is None else Budget(**{case.of: own if case.of == "money" else int(own)})
        if not depth:
            reader = Agent("reader", read, max_concurrency=case.at_once)
            return Workflow(name, agents=[reader], planner=Pages(pages), budget=budget, **more)
        inner = [
            Agent(f"{name}-{n}", team(f"{name}-{n}", part, depth - 1, limit / 8 if depth == 2 and n in OWN else None))
            for n, part in enumerate(quarters(pages))
        ]
        return Workflow(name, agents=inner, budget=budget, **more)

    models = {} if case.billed else {"m": TERMS}
    return team("team", range(CHILDREN), 2 if case.nested else 0, limit, models=models)


def quarters(pages: Sequence[int]) -> list[Sequence[int]]:
    size = len(pages) // 4
    return [pages[n * size : (n + 1) * size] for n in range(4)]


async def orchestra(case: Case, model: ChatOpenAI, limit: float) -> Any:
    return await workflow(case, model, limit).compile().ainvoke({"request": "Read all pages."})


# The peer


class Counter(UsageMetadataCallbackHandler):
    """LangChain's count of tokens, and one of calls."""

    calls = 0

    def on_llm_end(self, response: Any, **more: Any) -> None:
        super().on_llm_end(response, **more)
        self.calls += 1

    def spent(self, of: str) -> float:
        used = self.usage_metadata.get("m") or {"input_tokens": 0, "output_tokens": 0}
        sizes = used["input_tokens"], used["output_tokens"]
        return {"calls": self.calls, "tokens": sum(sizes), "money": TERMS.cost(*sizes)}[of]


async def naive(case: Case, model: ChatOpenAI, limit: float) -> Any:
    counter = Counter()

    async def ask(asked: list[Any]) -> str:
        if counter.spent(case.of) >= limit:
            raise RuntimeError("the budget is used up")
        return (await model.ainvoke(asked, {"callbacks": [counter]}, max_tokens=case.limit)).text

    return await asyncio.gather(*(child(page, ask) for page in range(CHILDREN)), return_exceptions=True)


@dataclass
class Spent:
    limit: float
    ratio: float  # of the budget that came off worst
    finished: int
    seconds: float
    agrees: bool = True


async def measure(case: Case, fake: BookedFake, seed: int, run: Any, limit: float) -> Spent:
    rules(fake, seed, billed=case.billed)
    began = time.perf_counter()
    ended = await run(case, chat(fake.url), limit)
    seconds = time.perf_counter() - began
    spent = amount(case.of, fake.served)
    finished = sum(any(f"<check {n}>." in each.text for each in fake.served) for n in range(CHILDREN))
    ratio, agrees = spent / limit, True
    if run is orchestra:
        booked = getattr(sum_of(ended["results"].values()), case.of)
        agrees = abs(booked - spent) <= 1e-9 * limit
    if run is orchestra and case.nested:
        for n in OWN:
            pages = set(quarters(range(CHILDREN))[n])
            part = [s for s in fake.served if int(re.search(r"<page (\d+)>", s.text)[1]) in pages]
            ratio = max(ratio, amount(case.of, part) / (limit / 8))
    return Spent(limit, ratio, finished, seconds, agrees)


def sum_of(results: Any) -> Any:
    first, *rest = (result.usage for result in results)
    return sum(rest, first)


async def demand(fake: BookedFake, seed: int) -> list[Served]:
    """What all the work takes."""
    rules(fake, seed, billed=False)
    fake.latency()
    await naive(CASES[0], chat(fake.url), float("inf"))
    return fake.served


def side(runs: list[Spent]) -> str:
    return (
        f"{spread([run.ratio for run in runs], '6.3f')} {statistics.median(run.finished for run in runs):>9.0f}"
        f" {statistics.median(run.seconds for run in runs):>7.2f}"
    )


async def compare(repeat: int) -> tuple[float, bool]:
    worst, agree = 0.0, True
    with BookedFake() as fake:
        wanted = [await demand(fake, seed) for seed in range(repeat)]
        for case in CASES:
            ours, peers = [], []
            for seed in range(repeat):
                limit = SHARE * amount(case.of, wanted[seed])
                limit = limit if case.of == "money" else int(limit)
                ours.append(await measure(case, fake, seed, orchestra, limit))
                if not case.nested and not case.at_once:
                    peers.append(await measure(case, fake, seed, naive, limit))
            worst, agree = max(worst, *(run.ratio for run in ours)), agree and all(run.agrees for run in ours)
            limit = statistics.median(run.limit for run in ours)
            shown = f"{limit:,.4f}" if case.of == "money" else f"{limit:,.0f}"
            print(f"{case.name:<28} {shown:>8}   {side(ours)}   {side(peers) if peers else ''}", flush=True)
    return worst, agree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, with other answers and latencies")
    args = parser.parse_args()
    print(f"{machine()}; {CHILDREN} children, two calls each; {args.repeat} runs of each")
    print(f"{'':<28} {'':>8}   {'Orchestra':<31}   checked before each call")
    print(f"{'budget':<28} {'limit':>8}" + 2 * f"   {'spent / limit':>13} {'finished':>9} {'wall s':>7}")
    print(f"{'':<28} {'median':>8}" + 2 * f"   {'median  worst':>13} {'median':>9} {'median':>7}")
    worst, agree = asyncio.run(compare(args.repeat))
    verdict(f"never above 1 (worst: {worst:.4f})", worst <= 1)
    print(f"Orchestra's books and the endpoint's {'agree' if agree else 'DIFFER'}; {machine()}")


if __name__ == "__main__":
    main()
