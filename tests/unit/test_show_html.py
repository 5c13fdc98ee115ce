from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.types import Interrupt
from pydantic import BaseModel

from orchestra import (
    Assignment,
    Attempt,
    Comparison,
    History,
    Moment,
    Outcome,
    Plan,
    Result,
    Review,
    RunInfo,
    RunState,
    Status,
    Task,
    Workflow,
    agent,
)
from orchestra.show import html
from orchestra.show.markdown import markdown
from orchestra.show.notebook import bundle
from orchestra.show.report import report
from orchestra.snapshots import RunList, TaskChange, ValueChange

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\"'"


def result(task: str = "a", status: Status = Status.SUCCEEDED, **more: Any) -> Result:
    tried = (Attempt(agent="x", number=1, started=T0, seconds=2.0),)
    values: dict[str, Any] = {
        "agent": "x",
        "attempts": tried,
        "started": T0,
        "ended": T0 + timedelta(seconds=2),
        **more,
    }
    return Result(task=task, status=status, **values)


def info(*results: Result, **more: Any) -> RunInfo:
    values: dict[str, Any] = {
        "thread_id": f"t {EVIL}",
        "workflow": "w",
        "state": RunState.DONE,
        "request": EVIL,
        **more,
    }
    plan = values.pop("plan", None) or Plan(tasks=tuple(Task(id=one.task) for one in results))
    raw = {one.task: one.model_dump(mode="json") for one in results}
    return RunInfo(turn=1, since=T0 + timedelta(seconds=9), plan=plan, raw=raw, **values)


def moment(number: int, **more: Any) -> Moment:
    values: dict[str, Any] = {"branch": 1, "turn": 1, "wave": 1, "what": "finished", "at": T0, "request": EVIL, **more}
    return Moment(number=number, checkpoint_id=str(number), **values)


HISTORY = History(
    thread_id="t",
    moments=(
        moment(1, what="asked"),
        moment(2, task=EVIL, status=Status.FAILED, tip=True),
        moment(3, branch=2, what="answered", tip=True),
    ),
    current=2,
)
COMPARISON = Comparison(
    before=HISTORY[1],
    after=HISTORY[3],
    tasks=(
        TaskChange(task=EVIL, kind="changed", before=result(output=EVIL * 40), after=result(output={"x": [1, EVIL]})),
        TaskChange(task="gone", kind="removed", before=result(status=Status.FAILED, error=EVIL), after=None),
    ),
    values=(ValueChange(key="answer", before="old", after=None),),
)


def rows(table: str) -> list[list[str]]:
    body = ET.fromstring(f"<x>{table}</x>").iter("tbody")
    return [["".join(cell.itertext()) for cell in row] for part in body for row in part]


@pytest.mark.parametrize(
    "fragment",
    [
        html.runs_table([info(result(EVIL))]),
        html.results_table(info(result(EVIL, error=EVIL, status=Status.FAILED))),
        html.attempts_table(info(result(EVIL))),
        html.history_table(HISTORY),
        html.comparison_table(COMPARISON),
        html.result_card(result(EVIL, output=EVIL, reviews=(Review(approved=False, reasons=(EVIL,)),))),
        html.outcome_card(Outcome(thread_id=EVIL, state=RunState.DONE, answer=EVIL, results={EVIL: result(EVIL)})),
        html.questions([Interrupt(value={"ask": EVIL}, id=EVIL)]),
        html.plan_table(Plan(tasks=(Task(id=EVIL),), made_by=EVIL)),
    ],
)
def test_fragments_are_well_formed_have_captions_and_scopes_and_what_others_wrote_is_text(fragment: str) -> None:
    tree = ET.fromstring(f"<x>{fragment}</x>")
    assert "script" not in {element.tag for element in tree.iter()}
    assert "<script>alert(1)</script>" in "".join(tree.itertext())
    assert all(table.findtext("caption") for table in tree.iter("table"))
    assert all(head.get("scope") for head in tree.iter("th"))


def test_tables_say_what_there_is_to_say() -> None:
    running = info(result("a"), plan=Plan(tasks=(Task(id="a"), Task(id="b", agent="y"))), waiting=("b",))
    inner = info(result("deep", status=Status.FAILED, error="no"))
    team = info(result("ops"), teams={"ops": inner})
    assert rows(html.runs_table([running]))[0][2:4] == ["✓ done", "1/2"]
    assert rows(html.results_table(running)) == [
        ["a", "✓ succeeded", "x", "1", "2.0 s", ""],
        ["b", "? waiting", "y", "", "", ""],
    ]
    assert [row[0] for row in rows(html.results_table(team))] == ["ops", "ops/deep"]
    assert rows(html.attempts_table(team))[1][:4] == ["ops/deep", "x", "1", "✓ ok"]
    assert [row[-1] for row in rows(html.history_table(HISTORY))] == ["", "◀ end of branch", "◀ goes on here"]
    changes = rows(html.comparison_table(COMPARISON))
    assert changes[0][1] == "→ changed"
    assert len(changes[0][2]) == 110
    assert changes[1][1:] == ["− removed", f"✗ failed {EVIL}", ""]  # noqa: RUF001 -- the sign shown
    assert changes[2] == ["answer", "old", ""]


class Model(BaseModel):
    at: datetime
    source: str


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\r\nb", '<div class="text">a\nb</div>'),
        (Model(at=T0, source="s"), "&quot;2026-01-02T03:04:05Z&quot;"),
        ({"b": b"\xff", "o": Odd(), "n": float("nan")}, "&lt;odd&gt;"),
        ({1, 2}, "<pre>["),
        ("x" * 2000, "<details><summary>Output, 2,000 characters</summary>"),
        ("x" * 300_000, "… and 100,000 characters more"),
        (None, ""),
    ],
)
def test_outputs_are_text_or_json_and_folded_away_if_long(value: Any, text: str) -> None:
    assert text in html.output(value)


def test_what_contains_itself_is_shown_too() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "[[...]]" in html.output(loop)
    assert html.source_list(loop) == ""


def test_sources_are_listed_and_only_the_web_is_linked() -> None:
    listed = html.source_list(
        {
            "claims": [
                {"quote": "so it is", "source": "README, line 3"},
                {"quote": "so it is", "source": "README, line 3"},
            ],
            "sources": ["https://a.example/?x=1&y=2", "javascript:alert(1)", {"url": "http://b.example\" onload='x'"}],
        }
    )
    assert "Sources: 4" in listed
    assert "<q>so it is</q> README, line 3" in listed
    assert re.findall(r'href="([^"]*)" rel="noreferrer noopener"', listed) == ["https://a.example/?x=1&amp;y=2"]
    assert html.source_list({"text": "https://a.example"}) == ""


def test_markdown_is_laid_out_and_harmless() -> None:
    made = markdown(
        "# Top\r\n\r\n##### Deep\n\n| a |\n|---|\n| 1 |\n\n<b onclick=x>raw</b> ![pic](https://spy.example/x.png) "
        "[a](https://a.example) [b](JaVaScRiPt:alert(1)) [c](data:text/html,x) [d](file:///etc/passwd) [e](#main)"
    )
    assert "<h3>Top</h3>" in made
    assert "<h4>Deep</h4>" in made
    assert "&lt;b onclick=x&gt;raw&lt;/b&gt;" in made
    assert "<img" not in made
    assert "[image: pic https://spy.example/x.png]" in made
    assert re.findall(r'href="(.*?)"', made) == ["https://a.example"]
    assert '<th scope="col">a</th>' in made
    assert "<caption" in made


def test_styles_stay_below_our_class() -> None:
    assert ":root" not in html.STYLE
    rules = re.findall(r"(?:^|[{}])([^{}@]+)\{", html.STYLE.replace(":is(div,body)", ""))
    assert len(rules) > 20
    assert all("orchestra" in part for rule in rules for part in rule.split(","))


@agent
def writer(task: Assignment) -> str:
    return task.request


FLOW = Workflow("flow", agents=[writer])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (FLOW, "Workflow flow: writer"),
        (FLOW.compile(), "Workflow flow: writer"),
        (
            Plan(tasks=(Task(id="a"), Task(id="b", needs=("a",)))),
            "Plan of 2 tasks, made by planner\ntask  agent  needs",
        ),
        (result("a", output={"x": 1}), '✓ succeeded a by x: {"x": 1}'),
        (result("a", status=Status.FAILED, agent=None, error="no"), "✗ failed a: no"),
        (Outcome(thread_id="t", state=RunState.WAITING, answer=None, results={}), "? waiting t: 0 open questions"),
        (info(result("a")), "a     ✓ succeeded  x      2.0 s"),
        (RunList([info(result("a"))]), "1 runs\nthread"),
        (HISTORY, "3       2       1     answered"),
        (COMPARISON, "gone"),
    ],
)
def test_in_a_notebook_all_have_a_short_text_and_html(value: Any, text: str) -> None:
    made = bundle(value)
    assert set(made) == {"text/plain", "text/html"}
    assert text in made["text/plain"]
    assert made["text/html"].startswith('<div class="orchestra"><style>')
    assert "<svg" not in made["text/html"]
    assert "<script" not in made["text/html"]
    assert all(
        image.startswith("data:image/svg+xml;base64,") for image in re.findall(r'src="([^"]*)', made["text/html"])
    )


def test_the_text_in_a_notebook_is_never_a_page_long() -> None:
    assert bundle(HISTORY[2])["text/plain"].startswith("moment 2, branch 1, turn 1: finished")
    assert bundle(object())["text/plain"].startswith("<object object")
    assert len(bundle(result(output="x" * 10_000))["text/plain"]) == 200
    plan = bundle(Plan(tasks=tuple(Task(id=f"t{i}") for i in range(500))))["text/plain"]
    assert plan.endswith("… 460 more")
    assert len(plan.splitlines()) < 50


def test_a_report_can_be_written_of_any_run() -> None:
    asked = RunInfo(thread_id="t", workflow="w", state=RunState.STOPPED, request="r", turn=1, since=T0, plan=None)
    assert "There is none yet" in report(asked)
    assert 'id="plan"' not in report(asked)
    planned = info(plan=Plan(tasks=(Task(id="a"),)), state=RunState.RUNNING)
    assert 'id="timeline"' not in report(planned)
    many = [result(f"t{i}", output={"n": i}) for i in range(300)]
    began = time.perf_counter()
    page = report(info(*many, answer="done"))
    assert time.perf_counter() - began < 5
    assert page.count('<details class="task"') == 300
    assert "default-src 'none'" in page
