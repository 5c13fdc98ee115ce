"""The analysis with a model behind a real HTTP server on loopback: one that works, one that lies, one that is down."""

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from graphs import _facts, _model, _sources
from graphs import competitor_analysis as analysis
from graphs._environment import model_from_environment
from tests.fakes import Fake, Fault

OURS = "# Aha\n\nAha is a small tool for teams.\n\n## Features\n\n- Frobnication\n- Caching on disk\n"
THEIRS = "# Bebe\n\nBebe is a large tool for companies.\n\n## Features\n\n- Caching in memory\n- Rate limits\n"
MODEL = "fake-model-1"


@pytest.fixture
def request_text(tmp_path):
    (tmp_path / "a.md").write_text(OURS)
    (tmp_path / "b.md").write_text(THEIRS)
    return f"ours: '{tmp_path}/a.md' competitor: '{tmp_path}/b.md'"


def good_answers(request_text):
    """What a careful model would say, by its role."""
    found = _facts.find_facts(*_sources.load(request_text))
    passage = {p.text: p.id for p in found.passages}
    facts = [(passage[text], kind, text) for text, kind in (
        ("Frobnication", "feature"), ("Caching on disk", "feature"), ("Caching in memory", "feature"),
        ("Rate limits", "feature"),
    )]  # fmt: skip
    n = len(found.facts)
    said = {
        "text": "Aha documents “Frobnication”; the documentation of Bebe does not mention it.",
        "facts": [f"O{n + 1}"],
    }
    wrong = {"text": "Only Aha has “Caching on disk”.", "facts": [f"O{n + 2}"]}
    stance = {"audience": [], "strengths": [said], "weaknesses": [wrong], "differentiators": []}
    row = {"feature": "Caching", "ours": "on disk", "ours_facts": [f"O{n + 2}"], "competitor": "in memory",
           "competitor_facts": [f"C{n + 1}"]}  # fmt: skip
    action = {
        "title": "Lead with frobnication",
        "step": "Write it down.",
        "rule": "Ours only.",
        "because": [said, wrong],
    }
    return {
        "researcher": {"facts": [{"passage": p, "kind": k, "name": t, "quote": t} for p, k, t in facts]},
        "comparer": {"rows": [row]},
        "positioner": {"ours": stance, "competitor": stance},
        "strategist": {"actions": [action]},
        "communicator": {"statements": [said]},
    }


@pytest.fixture
def serve(monkeypatch):
    """An endpoint that plays the roles by `answers`, with the environment pointed at it."""
    with Fake() as fake:
        monkeypatch.setenv("ORCHESTRA_MODEL", MODEL)
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")

        def start(answers):
            for role, answer in answers.items():
                fake.when(_model.PROMPTS[role], answer)
            return fake

        yield start


def run(request_text):
    flow = analysis.build(model_from_environment())
    graph = flow.compile(checkpointer=InMemorySaver())
    return graph.invoke({"request": request_text}, {"configurable": {"thread_id": "t"}})


def agents(state):
    return {name: result.agent for name, result in state["results"].items()}


ROLES = ["researcher", "comparer", "positioner", "strategist", "communicator"]


def test_a_model_plays_every_role_and_the_review_still_decides(serve, request_text):
    answers = good_answers(request_text)
    fake = serve(answers)
    state = run(request_text)
    assert agents(state) == {role: role for role in ROLES}
    answer = state["answer"]
    assert f"Written by a language model ({MODEL}): facts, comparison, positioning, strategy and summary." in answer
    assert "### 1. Lead with frobnication" in answer
    # The same unsupported statement came back after the review, so it is dropped and named.
    assert "*Only Aha has “Caching on disk”*" in answer.split("## What the review changed")[1]
    assert "Only Aha has" not in answer.split("## What the review changed")[0]
    drafted = [request for request in fake.requests if _model.PROMPTS["strategist"] in request.texts[0]]
    assert len(drafted) == 2
    assert "no evidence of absence" in drafted[1].texts[1]
    assert state["results"]["researcher"].usage.calls == 1


def test_a_quote_that_is_not_in_the_source_is_refused(serve, request_text):
    answers = good_answers(request_text)
    answers["researcher"]["facts"][0]["quote"] = "Frobnication at the speed of light"
    serve(answers)
    state = run(request_text)
    assert agents(state)["researcher"] == "offline_researcher"
    assert "speed of light" not in state["answer"]
    assert "By rules, without a model: facts" in state["answer"]


@pytest.mark.parametrize(
    "reply",
    ["this is no JSON at all", Fault.cut('{"facts": [', 1), Fault.server_error()],
    ids=["garbage", "cut", "500"],
)
def test_the_brief_comes_out_without_a_working_model(serve, request_text, reply):
    serve(dict.fromkeys(ROLES, reply))
    state = run(request_text)
    assert agents(state) == {role: f"offline_{role}" for role in ROLES}
    assert "made without a language model" in state["answer"]


def test_an_answer_with_prose_around_it_or_a_slip_is_repaired(serve, request_text):
    answers = good_answers(request_text)
    answers["researcher"] = [{"facts": "none"}, Fault.prose(answers["researcher"])]
    serve(answers)
    state = run(request_text)
    assert agents(state) == {role: role for role in ROLES}
    (attempt,) = state["results"]["researcher"].attempts
    assert "asked again" in attempt.notes[0]


def test_without_a_model_in_the_environment_there_is_none(monkeypatch):
    for name in ("ORCHESTRA_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert model_from_environment() is None
    monkeypatch.setenv("ORCHESTRA_MODEL", MODEL)
    assert model_from_environment() is None
    assert set(analysis.build().roster) == {*ROLES, "reviewer"}
