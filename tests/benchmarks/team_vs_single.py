"""A team beside one agent: the same calls of a model in sequence, under a supervisor, in waves, and by Orchestra.

    python tests/benchmarks/team_vs_single.py [--scale 0.3] [--repeat 3]

Claimed, at --scale 1: research over eight sources takes at least 60 % less time than one agent that reads them in turn,
with no call and no token more than LangGraph's waves, within 3 % of the critical path, also where waves are not.
"fan-out" is read 8 sources, compare, draft: 10 calls. In "two stages", 18 calls, an extract of each source is verified
before that; a wave waits for the slowest extract. The path is the longest chain of latencies as the endpoint delivered
them, by its own clock.

The endpoint is the tests' fake in a process of its own: lognormal, median 0.6 s to the first token and 15 ms for each
further one, times --scale; 60 to 150 words. Equal prompts take equally long, and hold the answers that a step needs.

- one agent: a loop over ChatOpenAI, given each step's prompt and not its own growing history, to be comparable.
- supervisor: langgraph-supervisor, if installed; its workers ask the same prompts, and its own calls come on top. It
  hands off one step at a time: of parallel hand-offs all but one are lost (0.0.31 with LangGraph 1.2.22).
- waves: plain LangGraph, `Send` and join, through the same saver as Orchestra, on a SQLite file.
- Orchestra: a function agent for each step, which asks the same prompt with `ask_model`. It streams; the others don't.
- Orchestra, from_model: that team by `Agent.from_model`. Its template says more: other latencies, a path of its own.
Those that work in sequence leave the machine idle: their runs go on side by side. The others run one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import operator
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from _models import Apart, apart, chat, longest, machine, spread, verdict, words
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from checkpoints import SQLAlchemySaver
from orchestra import Agent, Assignment, Workflow, ask_model
from tests.fakes import Fake, ToolCall

SYSTEM = "You are a careful analyst. Write plain English, name your sources, and keep it short."
SOURCES = range(8)
Run = Callable[[], Awaitable[Any]]
SEQUENTIAL = {"one agent", "supervisor"}


def flow(*stages: str) -> dict[str, tuple[str, ...]]:
    """The needs of each step, in topological order."""
    steps: dict[str, tuple[str, ...]] = {}
    for before, stage in zip((None, *stages), stages, strict=False):
        steps |= {f"{stage}-{n}": (f"{before}-{n}",) if before else () for n in SOURCES}
    return steps | {"compare": tuple(f"{stages[-1]}-{n}" for n in SOURCES), "draft": ("compare",)}


WORKS = {"fan-out": flow("read"), "two stages": flow("extract", "verify")}


def task_of(step: str) -> str:
    kind, _, number = step.partition("-")
    source = f"\n\nSource {number}: {words(f'source {number}', 220)}." if number else ""
    return f"Step {step}. Please {kind} what is given.{source}"


def prompt(step: str, inputs: Mapping[str, str]) -> list[BaseMessage]:
    given = "".join(f"\n\n{need}: {text}" for need, text in sorted(inputs.items()))
    return [SystemMessage(SYSTEM), HumanMessage(f"{task_of(step)}{given}")]


def endpoint(fake: Fake, *, seed: int, scale: float) -> None:
    """Give it rules and latencies. A chunk holds what comes in about 15 ms, as at full scale."""
    fake.latency((0.6 * scale, 0.5), (0.015 * scale, 0.3), seed=seed, chunk=max(1, round(1 / (scale or 0.01))))
    for work, steps in WORKS.items():  # the supervisor's own model: one step after the other
        says = [*(ToolCall(f"transfer_to_{step}") for step in steps), "All is done."]
        fake.when(lambda body, work=work: "tools" in body and body["model"].endswith(f"/{work}"), says)
    for step in {step for work in WORKS.values() for step in work}:
        fake.when(f"Step {step}.", words(f"answer {seed} {step}", 60, 150))


def one_agent(work: str, model: ChatOpenAI, _: Any) -> Run:
    async def run() -> None:
        said: dict[str, str] = {}
        for step, needs in WORKS[work].items():
            said[step] = (await model.ainvoke(prompt(step, {need: said[need] for need in needs}))).text

    return run


def supervisor(work: str, model: ChatOpenAI, saver: Any) -> Run:
    from langgraph_supervisor import create_supervisor

    said: dict[str, str] = {}

    def worker(step: str) -> Any:
        async def act(state: MessagesState) -> dict[str, Any]:
            reply = await model.ainvoke(prompt(step, {need: said[need] for need in WORKS[work][step]}))
            said[step] = reply.text
            return {"messages": [reply]}

        return StateGraph(MessagesState).add_node("act", act).add_edge(START, "act").compile(name=step)

    team = create_supervisor(
        [*map(worker, WORKS[work])], model=model, prompt="You lead a team.", add_handoff_back_messages=True
    )
    graph, asked = team.compile(checkpointer=saver), {"messages": [HumanMessage("Compare the eight sources.")]}
    return partial(graph.ainvoke, asked, {**thread(model), "recursion_limit": 100})


class State(TypedDict):
    said: Annotated[dict[str, str], operator.or_]


def waves(work: str, model: ChatOpenAI, saver: Any) -> Run:
    steps, graph, depth, before = WORKS[work], StateGraph(State), dict[str, int](), START
    layers: dict[int, list[str]] = defaultdict(list)
    for step, needs in steps.items():
        depth[step] = 1 + max((depth[need] for need in needs), default=-1)
        layers[depth[step]].append(step)

    async def act(state: Any, step: str = "") -> dict[str, Any]:
        step = step or state["step"]
        reply = await model.ainvoke(prompt(step, {need: state["said"][need] for need in steps[step]}))
        return {"said": {step: reply.text}}

    def send(state: State, number: int) -> list[Send]:
        return [Send(f"wave {number}", {"step": step, "said": state["said"]}) for step in layers[number]]

    for number, ready in layers.items():
        graph.add_node(f"wave {number}", partial(act, step=ready[0] if len(ready) == 1 else ""))
        if len(ready) == 1:
            graph.add_edge(before, f"wave {number}")
        else:
            if before != START:
                graph.add_node(f"join {number}", lambda _: {})
                graph.add_edge(before, before := f"join {number}")
            graph.add_conditional_edges(before, partial(send, number=number), [f"wave {number}"])
        before = f"wave {number}"
    return partial(graph.compile(checkpointer=saver).ainvoke, {"said": {}}, thread(model))


def orchestra(work: str, model: ChatOpenAI, saver: Any, *, from_model: bool = False) -> Run:
    def agent(step: str) -> Agent:
        if from_model:
            return Agent.from_model(step, model, SYSTEM, description=task_of(step))

        async def run(task: Assignment) -> str:
            return await ask_model(model, prompt(step, task.inputs))

        return Agent(step, run)

    team = Workflow("team", agents=map(agent, WORKS[work]))
    for step, needs in WORKS[work].items():
        for need in needs:
            team.add_edge(need, step)
    return partial(team.compile(checkpointer=saver).ainvoke, {"request": "Compare the eight sources."}, thread(model))


def thread(model: ChatOpenAI) -> Any:
    return {"configurable": {"thread_id": f"{model.model_name} {model.openai_api_base}"}}


CONTESTANTS = {"one agent": one_agent, "supervisor": supervisor, "waves": waves, "Orchestra": orchestra}
CONTESTANTS["Orchestra, from_model"] = partial(orchestra, from_model=True)


@dataclass
class Measured:
    seconds: float
    cpu: float
    path: float
    calls: int
    tokens: int


async def measure(work: str, name: str, server: Apart, saver: Any) -> Measured:
    model = chat(server.url, f"{name}/{work}")
    run = CONTESTANTS[name](work, model, saver)
    began, cpu = time.perf_counter(), time.process_time()
    await run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    served = [each for each in server.books() if each.model == model.model_name]
    took = {found[1]: each.delivered for each in served if (found := re.search(r"Step ([\w-]+)\.", each.text))}
    return Measured(seconds, cpu, longest(WORKS[work], took), len(served), sum(each.tokens for each in served))


async def compare(entries: list[tuple[str, str]], repeat: int, scale: float) -> dict[tuple[str, str], list[Measured]]:
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        starts = [apart(partial(endpoint, seed=n, scale=scale if n else 0.0)) for n in range(repeat + 1)]
        rest, *servers = [stack.enter_context(start) for start in starts]
        async with SQLAlchemySaver(f"sqlite:///{Path(folder) / 'bench.db'}") as saver:
            for entry in entries:  # warm up
                await measure(*entry, rest, saver)
            slow = [entry for entry in entries if entry[1] in SEQUENTIAL]
            side = await asyncio.gather(*(measure(*entry, server, saver) for entry in slow for server in servers))
            found = {entry: side[i * repeat : (i + 1) * repeat] for i, entry in enumerate(slow)}
            for server in servers:
                for entry in entries:
                    if entry not in slow:
                        found.setdefault(entry, []).append(await measure(*entry, server, saver))
    return found


def table(work: str, found: Mapping[str, list[Measured]]) -> None:
    print(f"\n{work:<22} {'wall s':>13} {'path s':>7} {'wall / path':>14} {'against one':>15}   calls  tokens  CPU s")
    print(f"{'':<22} {'median  worst':>13} {'median':>7} {'median  worst':>14} {'median  worst':>15}")
    for name, runs in found.items():
        against = [each.seconds / one.seconds - 1 for each, one in zip(runs, found["one agent"], strict=True)]
        print(
            f"{name:<22} {spread([each.seconds for each in runs], '6.2f'):>13}",
            f"{statistics.median(each.path for each in runs):>7.2f}",
            f"{spread([each.seconds / each.path for each in runs], '6.3f'):>14} {spread(against, '6.1%'):>15}",
            f"{max(each.calls for each in runs):>7} {max(each.tokens for each in runs):>7}",
            "" if name in SEQUENTIAL else f"{statistics.median(each.cpu for each in runs):>6.2f}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.3, help="of the latencies; 1 is what real endpoints have")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, with other latencies and answers")
    args = parser.parse_args()
    there, began = importlib.util.find_spec("langgraph_supervisor") is not None, time.perf_counter()
    print(f"{machine()}; {args.repeat} runs of each; latencies times {args.scale:g}", flush=True)
    entries = [(work, name) for work in WORKS for name in CONTESTANTS if name != "supervisor" or there]
    found = asyncio.run(compare(entries, args.repeat, args.scale))
    for work in WORKS:
        table(work, {name: found[work, name] for of, name in entries if of == work})
    print("" if there else "langgraph-supervisor is not installed here: that peer is left out.")
    ours, peers = ([each for work in WORKS for each in found[work, name]] for name in ("Orchestra", "waves"))
    less = max(a.seconds / b.seconds for a, b in zip(ours, found["fan-out", "one agent"], strict=False))
    more = max(max(a.calls - b.calls, a.tokens - b.tokens) for a, b in zip(ours, peers, strict=True))
    verdict("at least 60 % less time than one agent on the fan-out", less <= 0.4)
    verdict("no call and no token more than waves", more <= 0)
    verdict("each run within 3 % of its path, at --scale 1", max(each.seconds / each.path for each in ours) <= 1.03)
    print(f"{machine()}; {time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
