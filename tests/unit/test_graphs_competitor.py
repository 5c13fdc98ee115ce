"""The competitor analysis: what is compared, what the review refuses, and a brief whose references hold."""

import inspect
import re
import time

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from graphs import _brief, _facts, _features, _positioning, _review, _sources, _strategy, _text
from graphs import competitor_analysis as analysis
from graphs._types import Statement
from orchestra import RequestError

PAIRS = {
    "httpx": "Analyze dist:requests as a competitor of dist:httpx and draft a response strategy",
    "orjson": "Analyze dist:ormsgpack as a competitor of dist:orjson",
    "sqlalchemy": "Analyze dist:SQLAlchemy as a competitor of dist:pydantic",
    "small": "our dist:sniffio and the competitor dist:anyio",
}

OURS = """\
# Queuer

Queuer is a job queue for small teams. Queuer does not support Windows.

## Features

- Retries: failed jobs run again
- Priority queues
- Exactly-once enqueueing

Queuer handles 12,000 jobs per second on one node. It needs no Redis.
"""

THEIRS = """\
Rabbiter
========

Rabbiter is a task queue for large teams. It supports Redis and RabbitMQ brokers.

Features
--------

* Automatic retries
* Task priorities
* Windows support
* Dead letter queues
* Rate limits
* Web dashboard

Requires Python 3.9+ and is licensed under the GPLv3.
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ours.md").write_text(OURS)
    (tmp_path / "theirs.rst").write_text(THEIRS)
    return f"ours: '{tmp_path}/ours.md' competitor: '{tmp_path}/theirs.rst'"


def read(request):
    return _facts.find_facts(*_sources.load(request))


def run(request, flow=analysis.flow):
    graph = flow.compile(checkpointer=InMemorySaver())
    return graph.invoke({"request": request}, {"configurable": {"thread_id": "t"}})


def rows(findings):
    return {row.feature: row for row in _features.compare(findings).rows}


# Comparison


def test_the_same_feature_under_two_names_is_one_row():
    found = rows(read(PAIRS["httpx"]))
    assert found["Browser-style SSL Verification"].competitor.text == "Browser-style TLS/SSL Verification"
    assert found["Multipart File Uploads"].competitor.text == "Multi-part File Uploads"
    assert found[".netrc Support"].competitor.text == "Automatic honoring of `.netrc`"
    assert found["Elegant Key/Value Cookies"].competitor.mentioned
    assert found["HTTP/1.1"].competitor.mentioned  # in passing, in a sentence
    assert found["SOCKS Proxy Support"].ours.mentioned  # in passing, under dependencies
    assert not found["HTTP/2"].competitor.mentioned
    assert found["HTTP(S) Proxy Support"].competitor.unsure  # SOCKS may or may not be another thing


def test_a_denial_is_more_than_silence_and_close_is_not_the_same(folder):
    found = rows(read(folder))
    assert found["Windows support"].ours.denied
    assert found["Priority queues"].competitor.unsure
    assert found["Redis"].ours.unsure  # "needs no Redis"
    assert not found["RabbitMQ brokers"].ours.mentioned
    pypy = rows(read(PAIRS["orjson"]))["PyPy"]
    assert pypy.ours.denied
    assert pypy.competitor.mentioned


@pytest.mark.parametrize(
    ("sentence", "what", "denied"),
    [
        ("orjson does not and will not support PyPy, embedded builds.", "PyPy", True),
        ("Other levels of indentation are not supported.", "indentation", True),
        ("There is no open issue tracker.", "issue tracker", True),
        ("It does not serialize `float` due to implementation details in CPython.", "CPython", False),
        ("It supports PyPy.", "PyPy", False),
        ("It does not support PyPy unless you compile on Linux.", "Linux", False),
    ],
)
def test_only_what_the_negated_verb_is_about_is_denied(sentence, what, denied):
    assert _text.denies(sentence, _text.terms(what)) is denied


def test_metadata_is_compared_field_by_field():
    found = rows(read(PAIRS["httpx"]))
    assert found["Python required"].ours.text.startswith(">=3")
    assert found["Licence"].ours.text == "BSD-3-Clause"
    assert not found["Implementations listed"].ours.mentioned
    assert "PyPy" in found["Implementations listed"].competitor.text


@pytest.mark.parametrize(
    ("licences", "family"),
    [
        (["MIT"], "permissive"),
        (["Apache-2.0 OR MIT"], "permissive"),
        (["MPL-2.0 AND (Apache-2.0 OR MIT)"], "weak copyleft"),
        (["GPLv3"], "strong copyleft"),
        (["LGPL-2.1"], "weak copyleft"),
        (["Custom"], ""),
    ],
)
def test_licence_families(licences, family):
    assert _facts.licence_family(licences) == family


# Review


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("httpx documents “HTTP/2”.", "feature:HTTP/2", None),
        ("httpx documents “HTTP/3”.", "feature:HTTP/2", "none of the quotes"),
        ("httpx documents 7 protocols.", "feature:HTTP/2", "the number 7"),
        ("requests documents “HTTP/2”.", "feature:HTTP/2", "no cited quote comes from the documents of requests"),
        ("requests lacks “HTTP/2”.", "feature:HTTP/2", "no evidence of absence"),
        ("Only httpx has “HTTP/2”.", "feature:HTTP/2", "no evidence of absence"),
        ("httpx documents “HTTP/2”; the documentation of requests does not mention it.", "feature:HTTP/2", None),
        ("httpx documents “HTTP/2”, which the documentation of requests does not mention.", "feature:HTTP/2", None),
        ("httpx documents “HTTP/2”. requests lacks it.", "feature:HTTP/2", "no evidence of absence"),
        ("httpx documents “HTTP/2”, while requests lacks “SOCKS”.", "feature:HTTP/2", "no evidence of absence"),
        ("the documentation of requests does not mention “SOCKS”.", "feature:HTTP/2", "does mention it: metadata"),
        ("httpx is faster than requests.", "feature:HTTP/2", "both sides"),
        ("httpx makes coffee for astronauts.", "feature:HTTP/2", "do not speak of"),
    ],
)
def test_what_counts_as_support(text, kind, reason):
    findings = read(PAIRS["httpx"])
    name = kind.partition(":")[2]
    fact = next(f.id for f in findings.of("ours", "feature") if f.name == name)
    found = _review.problem(Statement(text=text, facts=(fact,)), findings)
    assert (found is None) if reason is None else (reason in (found or "")), found


def test_a_statement_needs_facts_that_exist():
    findings = read(PAIRS["httpx"])
    assert _review.problem(Statement(text="httpx is a client.", facts=()), findings) == "it cites no fact"
    assert "nobody found" in _review.problem(Statement(text="httpx is a client.", facts=("O999",)), findings)


def test_silence_is_checked_in_headings_and_examples_too(tmp_path):
    (tmp_path / "a.md").write_text("# Aha\n\nAha is a small tool.\n\n## Features\n\n- Frobnication\n")
    (tmp_path / "b.md").write_text("# Bebe\n\nBebe is a small tool too.\n\n```\nbebe --frobnication\n```\n")
    findings = read(f"ours: '{tmp_path}/a.md' competitor: '{tmp_path}/b.md'")
    fact = findings.of("ours", "feature")[0]
    said = Statement(text="the documentation of Bebe does not mention “Frobnication”.", facts=(fact.id,))
    assert "does mention it: b.md" in (_review.problem(said, findings) or "")
    row = rows(findings)["Frobnication"]
    assert row.competitor.unsure
    assert not _features.compare(findings).alone("ours")


def test_the_review_sends_back_rewords_and_drops():
    result = run(PAIRS["httpx"])["results"]["strategist"]
    first, second = result.reviews
    assert not first.approved
    assert any("Only httpx has “HTTP/2”." in reason for reason in first.reasons)
    strategy = result.output
    assert strategy.dropped
    assert strategy.reworded
    assert not second.approved  # something could not be saved: the revised draft is what is kept
    findings = read(PAIRS["httpx"])
    kept = [statement for action in strategy.actions for statement in action.because]
    assert kept
    assert all(_review.problem(statement, findings) is None for statement in kept)
    assert not {note.statement for note in strategy.dropped} & {statement.text for statement in kept}


def test_a_draft_that_holds_is_approved_at_once(tmp_path):
    (tmp_path / "a.md").write_text("# Aha\n\nAha is a small tool.\n\n## Features\n\n- Frobnication\n- Caching\n")
    (tmp_path / "b.md").write_text("# Bebe\n\nBebe is a small tool too.\n")
    result = run(f"ours: '{tmp_path}/a.md' competitor: '{tmp_path}/b.md'")["results"]["strategist"]
    assert [review.approved for review in result.reviews] == [True]
    assert not result.output.dropped


def test_without_rejections_the_author_does_not_reword():
    findings = read(PAIRS["httpx"])
    draft = _strategy.draft(findings, _features.compare(findings))
    assert not draft.reworded
    reasons, _ = _review.review_strategy(draft, findings)
    again = _strategy.draft(findings, _features.compare(findings), reasons)
    assert len(again.reworded) > 0
    assert len(_review.review_strategy(again, findings)[0]) < len(reasons)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_position_is_supported(pair):
    findings = read(PAIRS[pair])
    positions = _positioning.position(findings, _features.compare(findings))
    for stance in (positions.ours, positions.competitor):
        for part in type(stance).model_fields:
            for statement in getattr(stance, part):
                assert _review.problem(statement, findings) is None


# Brief


@pytest.mark.parametrize("pair", PAIRS)
def test_every_reference_of_the_brief_exists_and_every_quote_is_used(pair):
    answer = run(PAIRS[pair])["answer"]
    body, _, evidence = answer.partition("\n## Evidence\n")
    listed = [int(n) for n in re.findall(r"^(\d+)\. \S", evidence, re.MULTILINE)]
    assert listed == list(range(1, len(listed) + 1))
    used: set[int] = set()
    for mark in re.findall(r"(?<!\\)\[([\d, -]+)\]", body):
        for part in mark.split(", "):
            start, _, end = part.partition("-")
            used.update(range(int(start), int(end or start) + 1))
    assert used == set(listed)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_brief_has_all_parts_and_no_leftover_markup(pair):
    answer = run(PAIRS[pair])["answer"]
    parts = ["Summary", "Comparison", "Positioning", "Strategy", "What the review changed", "Evidence", "How this was"]
    assert [answer.index(f"\n## {part}") for part in parts] == sorted(answer.index(f"\n## {part}") for part in parts)
    assert "made without a language model" in answer
    prose = re.sub(r"`[^`\n]*`", "", answer)
    assert not re.search(r"(?<!\\)</?[a-z]+|shields\.io|!\[|\]\(", prose)
    for line in answer.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


def test_the_brief_says_not_mentioned_and_never_absent():
    answer = run(PAIRS["httpx"])["answer"]
    assert "| HTTP/2 | yes | not mentioned |" in answer
    assert "Dropped, because the evidence does not support it" in answer
    summary = answer.split("## Summary")[1].split("##")[0]
    assert not re.search(r"\b(lacks|Only httpx|better)\b", summary)


def test_quotes_in_the_brief_are_verbatim(folder):
    evidence = run(folder)["answer"].partition("\n## Evidence\n")[2]
    quotes = re.findall(r"^\d+\. .*?: “(.*)”$", evidence, re.MULTILINE)
    assert len(quotes) > 5
    for quote in quotes:
        assert quote in OURS or quote in THEIRS


def test_people_who_break_markdown_are_escaped():
    assert _brief.text("a|b <x> *y* _z_ `a|b` snake_case") == r"a\|b \<x> \*y\* \_z\_ `a|b` snake_case"


# Workflow


def test_a_bad_request_is_refused_before_any_agent():
    with pytest.raises(RequestError, match="no-such-package-here"):
        run("dist:no-such-package-here dist:httpx")


def test_the_example_of_the_workflow_works():
    assert run(analysis.flow.example)["answer"].startswith("# httpx and its competitor requests")


async def test_the_pace_slows_every_specialist(monkeypatch):
    monkeypatch.setenv("COMPETITOR_PACE", "0.05")

    async def played():
        return "by a model"

    for specialist in (lambda: "by rules", played):
        started = time.monotonic()
        result = analysis.paced(specialist)()
        assert (await result if inspect.isawaitable(result) else result).startswith("by ")
        assert time.monotonic() - started >= 0.05
