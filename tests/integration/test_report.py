"""The report in a real browser: it loads nothing, does nothing, and can be read by eye, by keyboard and by machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Interrupt
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from orchestra import Attempt, Plan, Result, Review, RunInfo, RunState, Status, Task
from orchestra.show.report import report

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SCRIPT = "<script>window.harmed = 1; alert(1)</script>"
IMAGE = "<img src=x onerror='window.harmed = 2; alert(2)'>"
BREAKOUT = "\"'></svg></style></textarea><script>window.harmed = 3</script>"
LONG_WORD = "unbroken" * 60
MARKDOWN = f"""# Brief {SCRIPT}

###### A level far too deep
{IMAGE} [click](javascript:window.harmed=4) ![pixel](http://127.0.0.1:9/spy.png) <javascript:alert(1)>
[web](https://example.org/?a=1&b=2) [![badge](http://127.0.0.1:9/b.png)](https://example.org/) [up](../secret)
{LONG_WORD}

| Feature | We | They |
|---|---|---|
| {LONG_WORD} | yes | `no` |

```html
{SCRIPT}
```
"""


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def tried(agent: str, start: float, end: float, number: int = 1, *how: Any) -> Attempt:
    outcome, error = (*how, *("ok", None)[len(how) :])
    return Attempt(agent=agent, number=number, started=at(start), seconds=end - start, outcome=outcome, error=error)


def result(task: str, *attempts: Attempt, status: Status = Status.SUCCEEDED, ended: float = 0, **more: Any) -> Result:
    end = max([at(ended), *(a.started + timedelta(seconds=a.seconds) for a in attempts)])
    started = attempts[0].started if attempts else end
    agent = attempts[-1].agent if attempts and status is Status.SUCCEEDED else None
    return Result(task=task, status=status, agent=agent, attempts=attempts, started=started, ended=end, **more)


def info(plan: Plan, results: list[Result], **more: Any) -> RunInfo:
    raw = {one.task: one.model_dump(mode="json") for one in results}
    defaults: dict[str, Any] = {"thread_id": "t1", "state": RunState.DONE, "request": "why?", "turn": 1}
    return RunInfo(**{"workflow": "w", "since": at(60), "asked": T0, **defaults, **more}, plan=plan, raw=raw)


def hostile() -> RunInfo:
    """A run in which everything that can go wrong has, and everybody writes what should harm the page."""
    inner = Plan(
        tasks=(Task(id="score", agent="scorer"), Task(id=f"check {SCRIPT}", agent="checker", needs=("score",)))
    )
    team = info(
        inner,
        [
            result("score", tried("scorer", 9.2, 12, 1, "malformed", f"no Score: {IMAGE}"), tried("scorer", 13, 16, 2)),
            result(f"check {SCRIPT}", tried("checker", 16.1, 19), output=IMAGE),
        ],
    )
    plan = Plan(
        tasks=(
            Task(id="fetch", instruction=f"Fetch it. {SCRIPT}"),
            Task(id=SCRIPT, agent=IMAGE),
            Task(id="ops", needs=("fetch",)),
            Task(id="broken"),
            Task(id="tweet", needs=("broken",)),
            Task(id="approve", needs=("ops",)),
            Task(id=LONG_WORD[:200], needs=("approve",)),
        )
    )
    sources = [{"quote": f"said {SCRIPT}", "source": "javascript:alert(1)"}, {"url": "https://example.org/a?b=1&c=2"}]
    results = [
        result(
            "fetch",
            tried("fetch", 0, 3, 1, "timeout", "no output within 3 s"),
            tried("fetch", 5, 7, 2, "error", BREAKOUT),
            tried("mirror", 7, 9),
            output={"text": SCRIPT, "sources": sources, "long": [LONG_WORD] * 30},
        ),
        result(SCRIPT, tried(IMAGE, 0, 4), output=BREAKOUT, reviews=(Review(approved=False, reasons=(SCRIPT,)),)),
        result("ops", tried("ops", 9.1, 20), output={"html": IMAGE}),
        result("broken", tried("broken", 0, 1, 1, "crashed"), status=Status.FAILED, error=f"it broke: {IMAGE}"),
        result("tweet", status=Status.SKIPPED, ended=1.1, error="broken failed"),
    ]
    return info(
        plan,
        results,
        workflow="desk",
        thread_id=f"t {SCRIPT}",
        state=RunState.WAITING,
        request=f"Why? {SCRIPT} {LONG_WORD}",
        answer=MARKDOWN,
        since=at(200_000),
        questions=(Interrupt(value={"ask": f"May I? {SCRIPT}"}, id="q1"),),
        waiting=("approve",),
        teams={"ops": team},
        turn=2,
    )


EARLIER = {
    "turn": 1,
    "request": SCRIPT,
    "answer": MARKDOWN,
    "results": {"a": result("a", tried("a", 0, 1), output=SCRIPT).model_dump(mode="json")},
}


class Page:
    """The report in a browser."""

    def __init__(self, driver: webdriver.Chrome, folder: Path) -> None:
        self.driver = driver
        self.file = folder / "report.html"
        self.file.write_text(report(hostile(), history=[EARLIER]), encoding="utf-8")

    def js(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, width: int = 1280, scheme: str = "light") -> None:
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.driver.get(self.file.as_uri())

    def press(self, key: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> dict[str, str]:
        return self.js(
            "const e = document.activeElement; const s = getComputedStyle(e);"
            "return {tag: e.tagName, text: e.textContent.trim(), outline: s.outlineStyle + ' ' + s.outlineWidth}"
        )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromedriver are not both installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"):
        options.add_argument(f"--{flag}")
    for flag in ("disable-background-networking", "disable-component-update", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    try:
        yield Page(driver, tmp_path_factory.mktemp("report"))
    finally:
        driver.quit()


def test_it_loads_nothing_but_itself_and_has_no_complaints(page: Page) -> None:
    page.open()
    page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    messages = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked == [page.file.as_uri()]
    assert page.driver.get_log("browser") == []


def test_what_others_wrote_is_text_and_does_nothing(page: Page) -> None:
    page.open()
    assert page.js("return window.harmed") is None
    assert page.js("return document.querySelectorAll('script,img,iframe,object,embed,[onerror],[onclick]').length") == 0
    text = page.js("return document.body.textContent")
    for written in (SCRIPT, IMAGE, BREAKOUT, "[click](javascript:window.harmed=4)", "http://127.0.0.1:9/spy.png"):
        assert written in text
    links = page.js("return [...document.links].map(a => [a.getAttribute('href'), a.rel])")
    outside = [(href, rel) for href, rel in links if not href.startswith("#")]
    assert all(href.startswith("https://example.org/") and rel == "noreferrer noopener" for href, rel in outside)
    assert len(outside) >= 3
    page.js("document.querySelectorAll('a').forEach(a => a.href.startsWith('http') || a.click())")
    assert page.js("return window.harmed") is None


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_and_nothing_overlaps(page: Page, width: int) -> None:
    page.open(width)
    page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.js("return document.documentElement.scrollWidth") <= width
    out = page.js(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('svg,.wide,.skip,.unseen'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert out == []
    overlaps = page.js(
        "const found = [];"
        "for (const parent of document.querySelectorAll('body,main,section,.page,details,dl,ol')) {"
        "  const boxes = [...parent.children].filter(e => !e.matches('.skip')).map(e => [e, e.getBoundingClientRect()])"
        "    .filter(([e, b]) => b.width && b.height);"
        "  boxes.forEach(([e, a], i) => boxes.slice(i + 1).forEach(([f, b]) => {"
        "    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)"
        "      found.push(e.outerHTML.slice(0, 60) + ' | ' + f.outerHTML.slice(0, 60)) })) }"
        "return found"
    )
    assert overlaps == []


def test_every_link_in_the_page_leads_somewhere(page: Page) -> None:
    page.open()
    targets = page.js("return [...document.links].map(a => a.getAttribute('href')).filter(h => h[0] === '#')")
    ids = page.js("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets} <= set(ids)
    assert len([target for target in targets if target.startswith("#task-")]) == 7 + 2


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.open()
    page.press(Keys.TAB)
    first = page.focused()
    assert (first["tag"], first["text"]) == ("A", "Skip to the report")
    assert first["outline"] == "solid 3px"
    wanted = page.js("return [...document.querySelectorAll('a,summary')].filter(e => e.checkVisibility()).length")
    seen = []
    for _ in range(wanted + 20):
        if (focused := page.focused())["tag"] in ("A", "SUMMARY"):
            seen.append(focused)
        page.press(Keys.TAB)
    assert len(seen) >= wanted
    assert all(one["outline"] == "solid 3px" for one in seen)
    page.js("const d = document.querySelector('details:not([open])'); d.firstChild.focus(); window.tested = d")
    page.press(Keys.ENTER)
    assert page.js("return window.tested.open") is True


def test_headings_landmarks_names_and_captions(page: Page) -> None:
    page.open()
    levels = [
        int(tag[1]) for tag in page.js("return [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h=>h.tagName)")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert (
        page.js("return ['header', 'nav', 'main', 'footer'].map(t => document.querySelectorAll(t).length)") == [1] * 4
    )
    assert page.js("return document.querySelectorAll('table').length") > 5
    assert page.js("return [...document.querySelectorAll('table')].filter(t => !t.caption?.textContent).length") == 0
    assert page.js("return document.querySelectorAll('th:not([scope])').length") == 0
    tree = page.cdp("Accessibility.getFullAXTree")["nodes"]
    pictures = [
        n["name"]["value"] for n in tree if n.get("role", {}).get("value") in ("image", "img", "graphics-document")
    ]
    assert pictures == ["Plan", "Timeline"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(page: Page, scheme: str) -> None:
    page.open(scheme=scheme)
    page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    pairs = page.js(
        "const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;"
        "  if (c !== 'rgba(0, 0, 0, 0)') return c } return 'rgb(255, 255, 255)' };"
        "const chosen = 'h1,h2,h3,p,td,th,dt,dd,a,summary,pre,code,caption,.state,.muted,.text,.error,footer';"
        "return [...new Set([...document.querySelectorAll(chosen)].filter(e => !e.closest('svg'))"
        ".map(e => getComputedStyle(e).color + ';' + ground(e)))]"
    )
    assert len(pairs) > 5
    dark = scheme == "dark"
    for pair in pairs:
        text, ground = (_luminance(colour) for colour in pair.split(";"))
        assert (text > ground) is dark
        assert (max(text, ground) + 0.05) / (min(text, ground) + 0.05) >= 4.5, pair


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
