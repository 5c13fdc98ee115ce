from __future__ import annotations

import base64
import random
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from pydantic import BaseModel

from orchestra import Agent, Attempt, Plan, Result, Review, Status, Task, Workflow, agent
from orchestra.errors import OrchestraError
from orchestra.events import Event, PlanReady, TaskEnded, TaskStarted
from orchestra.show.graph import mermaid, plan_svg, workflow_svg
from orchestra.show.layout import Box, Edge, Layout, arrange
from orchestra.show.picture import data_uri, fit, text_width, write_picture
from orchestra.show.progress import Progress
from orchestra.show.theme import SIGNS

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NS = "{http://www.w3.org/2000/svg}"
PARTS = {"g", "svg", "title", "desc", "style", "rect", "path", "text"}
HOSTILE = [
    "<script>alert(1)</script>",
    "]]>&amp;<![CDATA[",
    "nul\x00 bell\x07 esc\x1b[31m \ud800 \uffff",
    "\"double\" 'single' `back`",
    "tab\tnew\nline\rreturn",
    "🦊🧑‍🚀 emoji 👩‍👩‍👧",
    "x" * 200,
    "مرحبا بالعالم שלום \u202eevil",
    "漢字" * 60,
    "--> %%{init: {}}%% end; #quot;",
]


def graph(n: int, seed: int, reach: int) -> tuple[list[Box], list[Edge]]:
    pick = random.Random(seed)
    boxes: list[Box] = []
    for _ in range(n):
        width, height = pick.choice([60, 120, 200, 420]), pick.choice([30, 52, 52, 180])
        boxes.append(Box(width, height, width * pick.choice([0.5, 0.5, 0.2]), height * pick.choice([1, 1, 0.5])))
    edges = [
        Edge(start, end, int(pick.random() < 0.2))
        for end in range(1, n)
        for start in pick.sample(range(max(0, end - reach), end), min(end, reach, pick.choice([0, 1, 1, 2, 3])))
    ]
    return boxes, edges


def fan(n: int) -> tuple[list[Box], list[Edge]]:
    middle = range(1, n + 1)
    edges = [Edge(0, i) for i in middle] + [Edge(i, n + 1) for i in middle] + [Edge(0, n + 1)]
    return [Box(150, 52, 75, 52)] * (n + 2), edges


def check(boxes: list[Box], edges: list[Edge], layout: Layout) -> None:
    """No two boxes overlap; every route goes down from its start to its end and through no box between."""
    spots = [(x, y, x + box.width, y + box.height) for box, (x, y) in zip(boxes, layout.places, strict=True)]
    for left, top, right, bottom in spots:
        assert left >= -0.01
        assert right <= layout.width + 0.01
        assert top >= 0
        assert bottom <= layout.height + 0.01
    by_top = sorted(spots, key=lambda spot: spot[1])
    for i, a in enumerate(by_top):
        for b in by_top[i + 1 :]:
            if b[1] >= a[3]:
                break
            assert a[2] <= b[0] or b[2] <= a[0], "boxes overlap"
    for edge, route in zip(edges, layout.routes, strict=True):
        (x, y), (to_x, to_y) = route[0], route[-1]
        start, end = boxes[edge.start], boxes[edge.end]
        assert (x, y) == pytest.approx((spots[edge.start][0] + start.port, spots[edge.start][1] + start.exit))
        assert (to_x, to_y) == pytest.approx((spots[edge.end][0] + end.port, spots[edge.end][1]))
        assert all(a[1] <= b[1] + 0.01 for a, b in pairwise(route)), "a route goes up"
        for a, b in pairwise(route):  # a curve stays in the rectangle of its ends
            for i, (left, top, right, bottom) in enumerate(spots):
                if i == edge.start:  # below its exit a box keeps the way clear itself
                    continue
                beside = max(a[0], b[0]) <= left + 0.01 or min(a[0], b[0]) >= right - 0.01
                apart = beside or b[1] <= top + 0.01 or a[1] >= bottom - 0.01
                assert apart, f"{edge} runs through box {i}"


@pytest.mark.parametrize(("n", "reach"), [(1, 1), (2, 1), (5, 4), (12, 3), (30, 10), (30, 30), (60, 59)])
def test_no_boxes_overlap_and_no_edge_runs_through_a_box(n: int, reach: int) -> None:
    for seed in range(8):
        boxes, edges = graph(n, seed, reach)
        check(boxes, edges, arrange(boxes, edges))


def test_nor_do_they_in_large_and_special_graphs() -> None:
    chain = [Edge(i, i + 1) for i in range(39)]
    layers = [Edge(6 * layer + a, 6 * layer + 6 + b) for layer in range(5) for a in range(6) for b in (a, 0, 5 - a)]
    shapes = [graph(200, 1, 12), graph(200, 2, 199), fan(4), fan(5), fan(100), ([Box(100, 50, 50, 50)] * 40, chain)]
    shapes += [([Box(100, 50, 50, 50)] * 36, list(dict.fromkeys(layers)))]
    shapes += [([Box(300, 50, 20, 50)] * 50, [])]
    for boxes, edges in shapes:
        check(boxes, edges, arrange(boxes, edges))
    assert arrange([], []) == (0, 0, [], [])


def test_wide_fans_are_wrapped_into_rows_of_a_pages_width_and_stay_in_columns() -> None:
    small, large = arrange(*fan(4)), arrange(*fan(100))
    assert small.height < 300
    assert large.width < 2_200
    assert large.height < 2_200
    assert len({round(x) for x, _ in large.places}) < 30
    assert sum(map(len, large.routes)) < 8 * len(
        large.routes
    )  # trunks are straight: their bends need no points of their own


def test_chains_side_by_side_are_kept_whole_when_wrapped() -> None:
    n = 40
    boxes = [Box(200, 50, 100, 50)] * (3 * n + 1)
    edges = [Edge(0, 1 + 3 * i) for i in range(n)] + [Edge(3 * i + k, 3 * i + k + 1) for i in range(n) for k in (1, 2)]
    layout = arrange(boxes, edges)
    for i in range(n):
        columns = {round(layout.places[3 * i + k][0]) for k in (1, 2, 3)}
        assert len(columns) == 1
        assert layout.places[3 * i + 3][1] - layout.places[3 * i + 1][1] < 300


# Pictures


def ended(task: str, status: Status = Status.SUCCEEDED, path: tuple[str, ...] = ()) -> TaskEnded:
    tried = (Attempt(agent="someone", number=1, started=T0, seconds=2),)
    end = T0 + timedelta(seconds=2)
    result = Result(task=task, status=status, agent="someone", attempts=tried, started=T0, ended=end)
    return TaskEnded(path=path, task=task, result=result, at=T0)


def plan(n: int, seed: int = 0) -> Plan:
    pick = random.Random(seed)
    tasks = [
        Task(id=f"t{i}", needs=tuple(f"t{j}" for j in range(i) if pick.random() < 2 / (i + 1)), agent="a")
        for i in range(n)
    ]
    return Plan(tasks=tuple(tasks))


def nested() -> Progress:
    events: list[Event] = [PlanReady(plan=plan(6)), PlanReady(path=("t2",), plan=plan(5, 1))]
    return Progress.of([*events, PlanReady(path=("t2", "t3"), plan=plan(4, 2)), ended("t0")])


def shape(svg: str) -> tuple[list[tuple[float, ...]], list[list[tuple[float, float]]]]:
    """Where the boxes of a picture are, and points along each of its edge paths."""
    boxes: list[tuple[float, ...]] = []
    paths: list[list[tuple[float, float]]] = []

    def walk(element: ET.Element, x: float, y: float) -> None:
        if move := re.match(r"translate\((\S+) (\S+)\)", element.get("transform", "")):
            x, y = x + float(move[1]), y + float(move[2])
        css = element.get("class", "").split()
        if "o-box" in css:
            left, top = x + float(element.get("x", 0)), y + float(element.get("y", 0))
            boxes.append((left, top, left + float(element.attrib["width"]), top + float(element.attrib["height"])))
        if element.tag == f"{NS}path" and "o-open" in css and "o-dotted" not in css:
            paths.append([(x + a, y + b) for a, b in points(element.attrib["d"])])
        for child in element:
            walk(child, x, y)

    walk(ET.fromstring(svg), 0, 0)
    return boxes, paths


def points(d: str) -> Iterator[tuple[float, float]]:
    """Points along a path of M, V, H, h, Q and C."""
    at = (0.0, 0.0)
    for command, numbers in re.findall(r"([MVHhQC])([^A-Za-z]*)", d):
        v = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        ends = {"M": v, "V": [at[0], *v], "H": [*v, at[1]], "h": [at[0] + v[0], at[1]], "Q": v, "C": v}[command]
        stops = [at, *zip(ends[::2], ends[1::2], strict=True)]
        for step in range(command != "M", 13):
            row = stops[1:] if command == "M" else stops
            while len(row) > 1:  # de Casteljau
                t = step / 12
                row = [(a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t) for a, b in pairwise(row)]
            yield row[0]
        at = stops[-1]


def check_picture(svg: str) -> None:
    boxes, paths = shape(svg)
    for a, b in combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        inside = any(p[0] < q[0] and p[1] < q[1] and q[2] < p[2] and q[3] < p[3] for p, q in ((a, b), (b, a)))
        assert apart or inside
    for path in paths:
        for left, top, right, bottom in boxes:
            within = [left + 1 < x < right - 1 and top + 1 < y < bottom - 1 for x, y in path]
            assert all(within) or not any(within)  # a team's own edges are inside its box


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{NS}text")]


def team() -> Workflow:
    inner = Workflow("inner", agents=[Agent("one", lambda _: 1), Agent("two", lambda _: 2)])
    inner.add_edge("one", "two")
    middle = Workflow("middle", agents=[Agent("box", inner), Agent("three", lambda _: 3)])
    middle.add_edge("box", "three", optional=True)
    outer = Workflow("outer", agents=[Agent(n, lambda _: 0, capabilities=["see"], description="Sees.") for n in "abc"])
    outer.add_agent(Agent("team", middle))
    outer.add_edge("a", "team").add_edge(["a", "b", "team"], "c")
    for name, principal in (("spare", "a"), ("spare2", "a"), ("spare3", "spare")):
        outer.add_agent(Agent(name, lambda _: 0), backup_for=principal)
    outer.add_agent(Agent("judge", lambda _: Review(approved=True)))
    outer.add_review("a", by="judge", rounds=2).add_review("c", by="judge", rounds=1)
    return outer


def test_pictures_hold_together() -> None:
    for svg in (plan_svg(Progress.of([PlanReady(plan=plan(30))])), plan_svg(nested()), workflow_svg(team())):
        check_picture(svg)


def test_a_plan_shows_every_task_with_sign_word_agent_and_time_and_a_legend() -> None:
    progress = nested()
    progress.apply(TaskStarted(task="t1", agent="b", attempt=1, at=T0))
    progress.apply(ended("t3", Status.FAILED))
    svg = plan_svg(progress)
    shown = texts(svg)
    assert sum(shown.count(f"t{i}") for i in range(6)) == len(progress.rows)
    for state in ("succeeded", "failed", "running", "pending"):
        assert f"{SIGNS[state]} {state}" in shown
        assert f"{SIGNS[state]} {sum(row.state == state for row in progress.rows)} {state}" in shown
    assert {"someone", "2.0 s"} <= set(shown)
    assert "5.0 s" not in shown
    assert "5.0 s" in texts(plan_svg(progress, at=T0 + timedelta(seconds=5)))
    assert 'class="o-box o-ground o-s-failed"' in svg
    assert plan_svg(progress) == svg
    assert "no task yet" in texts(plan_svg(Progress()))


def test_a_finished_task_of_an_earlier_run_says_so_and_optional_needs_are_dashed() -> None:
    tasks = (Task(id="a"), Task(id="b", needs=("a", "a"), optional=frozenset({"a"})))
    svg = plan_svg(Progress.of([PlanReady(plan=Plan(tasks=tasks), finished={"a": ended("a").result}, at=T0)]))
    assert {"earlier", "can do without"} <= set(texts(svg))
    assert svg.count("l-4-7h8z") == 1


@pytest.mark.parametrize("draw", [plan_svg, workflow_svg], ids=["plan", "workflow"])
def test_hostile_texts_are_shown_as_text(draw: Callable[[Any], str]) -> None:
    if draw is plan_svg:
        tasks = [Task(id=clean_id(name), instruction=name, agent=clean_id(name)) for name in HOSTILE]
        svg = plan_svg(Progress.of([PlanReady(plan=Plan(tasks=tuple(tasks)))]))
    else:
        agents = [Agent(clean_id(name), lambda _: 1, description=name, capabilities=[name]) for name in HOSTILE]
        svg = workflow_svg(Workflow("hostile", agents=agents))
    svg.encode()
    root = ET.fromstring(svg)
    assert {element.tag.removeprefix(NS) for element in root.iter()} <= {
        *["g", "svg", "title", "desc", "style", "rect", "path", "text"]
    }
    assert not any(attribute in ("id", "href") for element in root.iter() for attribute in element.attrib)
    shown = texts(svg)
    for start in ("<script>alert", "]]>&amp;<", "🦊", "مرحبا", "漢字", "xxxxx", '"double"'):
        assert any(text.startswith(start) for text in shown), start
    assert max(map(len, shown)) < 60
    assert not any("\u202e" in text for text in shown)
    check_picture(svg)


def clean_id(name: str) -> str:
    return re.sub("[|:]", "", name.encode("utf-8", "replace").decode())  # agents and pydantic take no more


def test_text_is_cut_to_its_width() -> None:
    for text in (*HOSTILE, "short", ""):
        assert text_width(fit(text, 100, 12), 12) <= 100
    assert fit("short", 100, 12) == "short"
    assert fit("a long text that does not fit", 60, 12).endswith("…")


class Found(BaseModel):
    what: str


def test_a_workflow_shows_types_spares_reviewers_teams_and_planners() -> None:
    @agent(capabilities=["look"])
    def finder() -> Found:
        """Find it.

        At length.
        """
        return Found(what="x")

    @agent
    def teller(found: Found) -> str:
        return found.what

    svg = workflow_svg(Workflow("typed", agents=[teller, finder]))
    assert {"finder", "look", "Find it.", "teller", "typed", "2 agents, flow from types"} <= set(texts(svg))
    assert svg.count("l-4-7h8z") == 1
    shown = texts(svg := workflow_svg(team()))
    assert {"a", "b", "c", "team", "box", "one", "two", "three", "spare", "spare2", "spare3", "can do without"} <= set(
        shown
    )
    assert (shown.count("backup"), shown.count("judge")) == (3, 2)
    assert {"review, up to 2 rounds", "review, up to 1 round"} <= set(shown)
    assert workflow_svg(team()) == svg

    class Chief:
        def plan(self, request: str, **_: Any) -> Plan:
            raise NotImplementedError

    planned = workflow_svg(Workflow("desk", agents=[teller, finder], planner=Chief()))
    assert {"Chief", "a plan for each request", "teller", "finder"} <= set(texts(planned))
    wanted = workflow_svg(Workflow("few", agents=[teller, finder, Agent("idle", lambda _: 1)], output=Found))
    assert {"finder", "also on the roster", "idle"} <= set(texts(wanted))


def test_mermaid_has_the_same_links_and_quotes_what_it_could_misread() -> None:
    text = mermaid(team())
    assert text.startswith("flowchart TD\n")
    assert text.count("subgraph") == text.count("\n  end") + text.count("\n    end") == 2
    assert "n3_0 -.-> n3_1" in text
    assert "n0 --> n3" in text
    assert 'n0 <-->|"review, up to 2 rounds"| n7' in text
    assert "n0 -.-|backup| n4" in text
    flow = Workflow("bad", agents=[Agent(clean_id(name), lambda _: 1) for name in HOSTILE])
    for line in mermaid(flow).splitlines()[1:]:
        assert re.fullmatch(r"  n\d+\[\"[^\"<>{}%`\[\]]*\"\]", line), line


def test_pictures_grow_with_what_they_show_and_no_more() -> None:
    sizes: list[tuple[int, int]] = []
    for n in (1, 5, 30, 200):
        svg = plan_svg(Progress.of([PlanReady(plan=plan(n))]))
        found = re.search(r'width="(\d+)" height="(\d+)"', svg)
        assert found
        sizes.append((int(found[1]), int(found[2])))
        assert len(svg) < 4_000 + 1_500 * n
    areas = [width * height for width, height in sizes]
    assert areas == sorted(areas)
    assert sizes[0][0] < 420
    assert areas[-1] < 200 * 200_000


# Files


def test_pictures_follow_the_reader_and_bring_their_ground() -> None:
    svg = plan_svg(nested())
    assert "@media (prefers-color-scheme:dark)" in svg
    assert "var(" not in svg
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert [child.tag.removeprefix(NS) for child in root][:4] == ["title", "desc", "style", "rect"]
    assert base64.b64decode(data_uri(svg).removeprefix("data:image/svg+xml;base64,")).decode() == svg


def test_writing_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svg = plan_svg(nested())
    write_picture(svg, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == svg
    with pytest.raises(OrchestraError, match=r"\.svg or \.png"):
        write_picture(svg, tmp_path / "a.gif")
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    with pytest.raises(OrchestraError, match=r"rsvg-convert.*\.svg works without"):
        write_picture(svg, tmp_path / "a.png")
    for name, body in (("rsvg-convert", "exit 1"), ("inkscape", "printf '\\211PNG' > \"${3#*=}\"")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    write_picture(svg, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (programs / "inkscape").unlink()
    with pytest.raises(OrchestraError, match=r"rsvg-convert: CalledProcessError"):
        write_picture(svg, tmp_path / "b.png")
