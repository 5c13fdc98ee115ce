"""Keys stay out of everything that is kept or shown, even if an endpoint repeats them in its errors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import RetryPolicy
from pydantic import SecretStr

from orchestra import (
    Agent,
    Assignment,
    ModelPlanner,
    ModelReviewer,
    Orchestra,
    PlanError,
    RunState,
    Workflow,
    WorkflowError,
    agent,
)
from orchestra.cli import main
from orchestra.models.profiles import forget_profiles
from tests.fakes import Answer, Fake, Fault, ToolCall

QUICK = RetryPolicy(initial_interval=0.001, max_interval=0.01)
CLIENT = {"http_client": openai.DefaultHttpxClient(verify=False)}
KEY, HEADER, VARIABLE = "sk-Planted-0a1b2c3d4e5f", "Hd-Planted-9f8e7d6c5b4a", "Ev-Planted-5a4b3c2d1e0f"
SECRETS = {"the model's key": KEY, "a header": HEADER, "the environment": VARIABLE}
ECHO = f"Bad key {KEY}; header was 'Bearer {HEADER}'; server has {VARIABLE}; you sent {{authorization}}"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A secret in the environment, every log, and endpoints that are new."""
    monkeypatch.setenv("PLANTED_API_KEY", VARIABLE)
    caplog.set_level(logging.DEBUG)
    forget_profiles()


def chat(fake: Fake, **options: Any) -> ChatOpenAI:
    mine = {"http_async_client": openai.DefaultAsyncHttpxClient(verify=False)}
    headers = {"X-Gateway-Auth": f"Bearer {HEADER}"}
    defaults = {"base_url": fake.url, "model": "m", "max_retries": 0, "timeout": 20, "default_headers": headers}
    return ChatOpenAI(**{"api_key": SecretStr(KEY)} | defaults | CLIENT | mine | options)


def files(database: str) -> Iterator[tuple[str, bytes]]:
    """The database's files, with what SQLite keeps beside them."""
    path = Path(database.removeprefix("sqlite:///"))
    for file in path.parent.glob(f"{path.name}*"):
        yield file.name, file.read_bytes()


def found(**places: Any) -> list[str]:
    """Where a secret is found, by the name of the place."""
    told: list[str] = []
    for place, what in places.items():
        whole = what if isinstance(what, bytes) else str(what).encode()
        told += [f"{name} in {place}" for name, secret in SECRETS.items() if secret.encode() in whole]
    return told


def failing(fake: Fake, **echo: Any) -> None:
    fake.when("Call the tool ping.", ToolCall("ping"))
    fake.when("What is left", "done")
    fake.when("You are careful, one", "fine")
    fake.when("one specialist of a team", Answer(**{"status": 401, "error": ECHO} | echo))
    fake.when("You plan the work", Answer(status=401, error=ECHO))
    fake.when("You check the work", Answer(status=401, error=ECHO))


def team(fake: Fake) -> Workflow:
    """Whatever can fail with a key in its message does."""

    @agent
    async def raises(task: Assignment) -> str:
        raise ValueError(f"{KEY} {HEADER} {VARIABLE}")

    model = chat(fake)
    one = Agent.from_model("one", model, "You write.", retry=QUICK)
    two = Agent.from_model("two", model, "You count.", retry=QUICK, output=list[int])
    careful = Agent.from_model("careful", model, "You take care.", retry=QUICK)
    roles: Any = {"planner": ModelPlanner(model), "reviewer": ModelReviewer(model)}
    flow = Workflow("w", agents=[one, two, raises], **roles)
    crew = Agent("crew", Workflow("inner", agents=[Agent.from_model("deep", model, "You dig.", retry=QUICK)]))
    return flow.add_agent(crew).add_agent(careful, backup_for="one")


@pytest.mark.parametrize("status", [401, 400, 500])
async def test_an_endpoint_that_repeats_keys_gives_nothing_away(
    fake: Fake, database: str, caplog: Any, capsys: Any, status: int
) -> None:
    page = Path(database.removeprefix("sqlite:///")).with_name("page.html")
    failing(fake, status=status)
    flow = team(fake)
    async with Orchestra(database) as orchestra:
        going = await orchestra.start(flow, "Go.", thread_id="t", record=True)
        outcome = await going
        told = [*going.seen, *await orchestra.events("t")]
        info = await orchestra.info("t")
        assert found(**dict(files(database))) == []
    assert len(fake.requests) > 5
    assert outcome.state is RunState.FAILED
    assert "***" in (outcome.answer or ""), "the errors were told at all"
    assert main_in_thread("runs", "show", "t", "--db", database, "--html", str(page)) == 0
    assert main_in_thread("runs", "show", "t", "--db", database, "--json") == 0
    out, err = capsys.readouterr()
    assert "***" in page.read_text()
    assert (
        found(
            events="\n".join(map(repr, told)),
            outcome=repr(outcome),
            answer=outcome.answer,
            info=repr(info),
            page=page.read_bytes(),
            out=out,
            err=err,
            **dict(files(database)),
        )
        == []
    )
    assert found(log="\n".join(f"{each.getMessage()} {each.exc_text}" for each in caplog.records)) == []


def main_in_thread(*words: str) -> int:
    """The command line, beside the test's own event loop."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(main, words).result()


@pytest.mark.parametrize("fault", ["tool", "garbled", "refused", "option"])
async def test_other_ways_in_which_a_key_comes_back(fake: Fake, database: str, fault: str) -> None:
    def look(query: str) -> str:
        """Look it up."""
        raise ConnectionError(f"{KEY} {HEADER} {VARIABLE}")

    fake.when("Call the tool ping.", ToolCall("ping"))
    said: dict[str, Any] = {
        "tool": [ToolCall("look", {"query": "x"}), "done"],
        "garbled": Fault.garble(f"{KEY} {HEADER} {VARIABLE}", after=0),
        "refused": Fault.refuse(f"{KEY} {HEADER} {VARIABLE}"),
        "option": [Answer(status=400, error=ECHO), {"answer": 7}],
    }
    fake.when("one specialist of a team", said[fault])
    kind: Any = int if fault == "option" else str
    options: dict[str, Any] = {"retry": QUICK, "output": kind, "tools": [look] if fault == "tool" else []}
    flow = Workflow("w", agents=[Agent.from_model("one", chat(fake), "You write.", **options)])
    async with Orchestra(database) as orchestra:
        outcome = await (going := await orchestra.start(flow, "Go.", thread_id="t", record=fault != "refused"))
    assert found(outcome=repr(outcome), events=repr(going.seen), **dict(files(database))) == []
    if fault in ("tool", "option"):
        assert outcome.state is RunState.DONE
        assert found(asked="\n".join(str(each.body) for each in fake.requests)) == []


async def test_an_agent_with_a_model_of_its_own(fake: Fake, database: str) -> None:
    """Nobody showed Orchestra this model; its calls are known all the same."""
    fake.when("direct", Answer(status=401, error="Bad key direct-Planted-77; you sent {authorization}"))

    @agent
    async def direct(task: Assignment) -> str:
        model = chat(fake, api_key="direct-Planted-77", default_headers={})
        return (await model.ainvoke("direct")).text

    async with Orchestra(database) as orchestra:
        outcome = await (await orchestra.start(Workflow("w", agents=[direct]), "Go.", thread_id="t"))
    assert "401" in (outcome.answer or "")
    assert "direct-Planted-77" not in repr(outcome)
    assert not any(b"direct-Planted-77" in each for _, each in files(database))


async def test_an_error_that_reaches_the_caller(fake: Fake, database: str) -> None:
    """A notebook keeps the traceback, with the errors that it came from."""

    @agent
    async def adder(number: int) -> int:
        return number + 1

    failing(fake)
    async with Orchestra(database) as orchestra:
        with pytest.raises(PlanError) as caught:
            await orchestra.start(Workflow("w", agents=[adder], planner=ModelPlanner(chat(fake))), "Go.", thread_id="t")
    whole = "".join(traceback.format_exception(caught.value))
    assert found(message=str(caught.value), **dict(files(database))) == []
    assert found(traceback=whole) == []


def test_what_things_look_like(fake: Fake) -> None:
    model = chat(fake)
    one = Agent.from_model("one", model, "You write.")
    planner, reviewer = ModelPlanner(model), ModelReviewer(model)
    flow = Workflow("w", agents=[one], planner=planner, reviewer=reviewer)
    graph = flow.compile()
    things = {"agent": one, "flow": flow, "planner": planner, "reviewer": reviewer, "graph": graph}
    assert found(**{name: repr(each) for name, each in things.items()}) == []


def test_a_complaint_about_a_model(fake: Fake) -> None:
    """A model with options bound to it is the likeliest mistake."""
    with pytest.raises(WorkflowError, match="not a LangChain chat model") as caught:
        Agent.from_model("one", chat(fake).bind(stop=["x"]), "You write.")  # type: ignore[arg-type]
    assert found(message=str(caught.value)) == []


# The command line, in a process of its own

PROGRAM = """
import logging, os
from langchain_openai import ChatOpenAI
from orchestra import Agent, ModelPlanner, Workflow
logging.basicConfig(level=logging.DEBUG)
model = ChatOpenAI(base_url=os.environ["PLACE"], api_key=os.environ["GIVEN"], model="m", max_retries=0,
                   default_headers={"X-Gateway-Auth": "Bearer " + os.environ["HEAD"]})
one = Agent.from_model("one", model, "You write.")
flow = Workflow("cli", agents=[one], planner=ModelPlanner(model))
"""

LATER = """
import sys
from orchestra.cli import main
for command in (["runs", "show", "t", "--html", "page.html"], ["runs", "replay", "t"]):
    if code := main([*command, "--db", sys.argv[1]]):
        sys.exit(code)
"""


def test_the_command_line(fake: Fake, database: str, tmp_path: Path) -> None:
    failing(fake)
    (tmp_path / "program.py").write_text(PROGRAM)
    # Not by names that tell: so only the model itself can tell that they are secret.
    places = {"PLACE": fake.url, "GIVEN": KEY, "HEAD": HEADER}

    def run(*words: str) -> tuple[int, bytes]:
        done = subprocess.run(
            [sys.executable, *words],
            check=False,
            env={**os.environ, **places},
            capture_output=True,
            timeout=60,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout + done.stderr

    flow = f"{tmp_path / 'program.py'}:flow"
    code, told = run("-m", "orchestra", "run", flow, "Go.", "--thread", "t", "--record", "--db", database)
    assert code == 1
    assert b"***" in told
    # One process for both: when it makes the page, it has not heard of the keys; the replay imports the program.
    code, shown = run("-c", LATER, database)
    assert code == 0, shown
    assert b"Wrote page.html" in shown
    assert b"The same run." in shown
    page = (tmp_path / "page.html").read_bytes()
    assert found(run=told, later=shown, page=page, **dict(files(database))) == []
