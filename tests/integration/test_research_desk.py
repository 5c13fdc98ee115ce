"""The research desk: without a model, with a scripted one, with one that lies, and with one that is down."""

import json
import re

import pytest
from langchain_openai import ChatOpenAI

from graphs import _desk_brief, _desk_model, _desk_rules, _desk_samples, research_desk
from graphs._desk import FOLDER, Computation, Computations, Finding, Findings, desk_for
from graphs._desk_brief import Evidence, Statement, problem
from graphs._environment import number_from_environment
from orchestra import RequestError, RunState, WorkflowError
from orchestra.models.profiles import forget_profiles
from tests.fakes import Fake, Fault, ToolCall

MODEL = "fake-model-1"
CLAIM = "The mean downtime per job was 2.1 days."
PLACE = "maintenance-weeks-05-08.md:5-10"
PROGRAM = """\
import csv
from statistics import mean
rows = [r for r in csv.DictReader(open("data/jobs.csv")) if 5 <= int(r["week"]) <= 8]
print(f"mean downtime of {len(rows)} jobs in weeks 5 to 8: {mean(int(r['downtime_days']) for r in rows):.1f} days")
"""
FOUND = {"quotes": [{"passage": PLACE, "quote": CLAIM}]}
COMPUTED = {"what": "The mean downtime of the jobs of weeks 5 to 8.", "code": PROGRAM}
SAID = {"statements": [{"text": "The report says 2.1 days, the job data says 4.1 days.", "cites": ["Q1", "C1"]}]}
FINE = {"answered": True, "missing": [], "contradictions": [], "plan": None}
ROLES = {"researcher", "coder", "communicator"}


def task(id_, agent, *needs):
    return {"id": id_, "instruction": f"Do your part, {agent}.", "agent": agent, "needs": [*needs]}


PLAN = {"tasks": [task("claim", "researcher"), task("data", "coder"), task("write", "communicator", "claim", "data")]}


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(FOLDER, raising=False)


@pytest.fixture
def papers(tmp_path):
    folder = tmp_path / "my papers"
    _desk_samples.write(folder)
    return folder


@pytest.fixture
def fake():
    forget_profiles()
    with Fake() as endpoint:
        endpoint.when("Call the tool ping.", ToolCall("ping"))
        yield endpoint


def script(fake, *, plan=PLAN, find=FOUND, compute=COMPUTED, say=SAID, judge=FINE):
    """A team that knows its work, unless a test says otherwise."""
    for mark, reply in (
        ("You plan the work of a team", plan),
        ("You check the work of a team", judge),
        (_desk_model.RESEARCHER, find),
        (_desk_model.CODER, compute),
        (_desk_model.COMMUNICATOR, say),
    ):
        fake.when(mark, reply)


def team(fake, **options):
    return research_desk.build(ChatOpenAI(model=MODEL, base_url=fake.url, api_key="x", max_retries=0), **options)


async def ask(orchestra, request, fake=None, **options):
    run = await orchestra.start(team(fake) if fake else research_desk.build(), request, **options)
    outcome = await run
    return outcome, await orchestra.info(run.thread_id)


def agents(info):
    return {id_: result.agent for id_, result in info.results.items()}


def prompts(fake, mark):
    return [request for request in fake.requests if mark in request.texts[0]]


# ---- without a model


async def test_offline_it_lays_claim_and_data_side_by_side(orchestra):
    outcome, info = await ask(orchestra, research_desk.EXAMPLE)
    assert outcome.state is RunState.DONE
    assert f"- “{CLAIM}” Maintenance report, weeks 5 to 8 > Jobs [Q1]" in outcome.answer
    assert f"**Q1** {PLACE}" in outcome.answer
    assert "downtime_days where week is 5 to 8: 80 values, mean 4.112" in outcome.answer
    assert "Written without a language model: these are extracts" in outcome.answer
    assert "No folder was named, so this is about the sample documents" in outcome.answer
    assert agents(info) == {role: role for role in ROLES}
    assert [review.approved for review in info.results["communicator"].reviews] == [True]


async def test_a_folder_of_ones_own_and_the_same_one_in_the_next_turn(orchestra, papers):
    (papers / "secret.bin").write_bytes(b"\0")
    outcome, info = await ask(orchestra, f"When are brake pads changed? folder: '{papers}'")
    assert outcome.answer.startswith("# When are brake pads changed?\n\n*Written without")
    assert "“Brake pads are changed at 1.5 mm, chains at 0.75 % of wear.”" in outcome.answer
    assert "Not read: secret.bin (not a kind that is read" in outcome.answer
    outcome, _ = await ask(orchestra, "And how many bikes has Harbour?", thread_id=info.thread_id)
    assert "sample documents" not in outcome.answer
    assert str(papers) in outcome.answer


async def test_what_is_not_there_is_not_found(orchestra, tmp_path):
    (tmp_path / "a.md").write_text("Nothing of interest.")
    outcome, _ = await ask(orchestra, f"Who owns the zeppelins? folder: {tmp_path / 'a.md'}")
    assert "Nothing was found, and nothing was computed." in outcome.answer


async def test_a_bad_folder_is_refused_before_anything_starts(orchestra, papers):
    for request, says in (
        (f"What is there? in '{papers}/nowhere'", "there is no such folder"),
        ("What is there? folder: ~nobody-here/x", "can't be read"),
        (f"folder: '{papers}'", "asks nothing"),
        ("What? folder: a folder: b", "names 2 folders: a, b"),
    ):
        with pytest.raises(RequestError, match=re.escape(says)):
            await ask(orchestra, request)
    assert not [*await orchestra.runs()]


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        ("What now? folder: papers/2031.", "papers/2031"),
        ("What now? Folder=papers", "papers"),
        ("folder:~/papers, What now?", "~/papers"),
        ("What now? in ~/papers?", "~/papers"),
        ("What now? in the folder ../papers", "../papers"),
        ("What now? in “./my papers”", "./my papers"),
        ('What now? from "/home/me/my papers".', "/home/me/my papers"),
    ],
)
def test_how_a_request_names_its_folder(request_, path):
    desk = desk_for(request_)
    assert (str(desk.path), desk.sample) == (path.removeprefix("./"), False)
    assert desk.question.rstrip(".? ") == "What now"


@pytest.mark.parametrize("request_", ["How was it in spring?", "Speed in km/h?", "A portfolio: what is it?"])
def test_a_request_without_a_folder(request_, monkeypatch, tmp_path):
    desk = desk_for(request_)
    assert (desk.question, desk.sample) == (request_, True)
    assert desk_for(request_, "before that", "and in ~/papers").path.name == "papers"
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert (desk_for(request_).path, desk_for(request_).sample) == (tmp_path, False)


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("t.csv", b"day;late min\n1;1,5\n2;2,5\n3;9\n", "late min where day is 1 to 2: 2 values, mean 2, sum 4"),
        ("t.csv", b'Title\n\nday,late\n1,"1,200"\n2,800\n', "late where day is 1 to 2: 2 values, mean 1000, sum 2000"),
        ("t.csv", "day,late\n1,4%\n2,n/a\n1,8%\n2,6 %\n2,6%\n1,6%\n2,6%\n1,6%\n2,6%\n1,6%\n2,6%\n".encode("utf-16"),
         "late where day is 1 to 2: 10 values, mean 6"),
        ("t.json", b'{"of": "me", "rows": [{"day": 1, "late": 3}, {"day": 5, "late": 1}]}', "1 values, mean 3"),
    ],
)  # fmt: skip
async def test_columns_that_a_question_names_are_summed_up(tmp_path, name, data, line):
    (tmp_path / name).write_bytes(data)
    desk = desk_for(f"How late were they, on days 1 to 2? folder: '{tmp_path}'")
    computed = await _desk_rules.compute(desk, desk.read())
    assert computed.notes == ()
    assert line in computed.done[-1].output


def test_a_budget_that_is_no_number_is_refused(monkeypatch):
    for given, number in (("50_000", 50_000), ("", 7), (None, 7)):
        monkeypatch.setenv("DESK", given) if given is not None else monkeypatch.delenv("DESK")
        assert number_from_environment("DESK", 7) == number
    for given in ("many", "0", "-1", "1.5"):
        monkeypatch.setenv("DESK", given)
        with pytest.raises(WorkflowError, match="DESK must be a whole number above zero"):
            number_from_environment("DESK", 7)


# ---- with a model


async def test_it_finds_the_contradiction_between_report_and_data(orchestra, fake):
    look = [ToolCall("search_documents", {"query": "mean downtime"}), ToolCall("read_passage", {"passage": PLACE})]
    broken = COMPUTED | {"code": PROGRAM.replace("jobs.csv", "job.csv")}
    rash = {"statements": [*SAID["statements"], {"text": "That is 95 % more downtime.", "cites": ["C1"]}]}
    script(fake, find=[*look, FOUND], compute=[broken, COMPUTED], say=[rash, SAID])
    outcome, info = await ask(orchestra, "Does the report's claim about mean downtime agree with the job data?", fake)
    assert outcome.state is RunState.DONE
    assert "- The report says 2.1 days, the job data says 4.1 days. [Q1, C1]" in outcome.answer
    assert f"**Q1** “{CLAIM}” — {PLACE}" in outcome.answer
    assert "mean downtime of 80 jobs in weeks 5 to 8: 4.1 days" in outcome.answer
    assert "program 1 of fake-model-1 failed" in outcome.answer  # honest about what went wrong on the way
    assert "95 %" not in outcome.answer
    first, second = info.results["write"].reviews
    assert first.reasons == ("“That is 95 % more downtime.”: the number 95 does not stand in what it cites",)
    assert second.approved
    assert (info.plan.made_by, info.plan.repairs) == (MODEL, ())
    assert agents(info) == {"claim": "researcher", "data": "coder", "write": "communicator"}
    assert [judgement.answered for judgement in info.plan.judgements] == [True]
    assert "FileNotFoundError" in prompts(fake, _desk_model.CODER)[1].texts[-1]
    assert "the number 95" in prompts(fake, _desk_model.COMMUNICATOR)[1].texts[1]


async def test_orders_in_a_source_change_nothing(orchestra, fake, papers):
    obeying = [
        ToolCall("search_documents", {"query": "message from the supplier"}),
        ToolCall("send_files", {"to": "supplier"}),
        ToolCall("read_passage", {"passage": "/etc/passwd"}),
        {"quotes": [{"passage": "supplier-notes.md:8-14", "quote": "Every bike is perfect."}, *FOUND["quotes"]]},
    ]  # fmt: skip
    seen = []
    for words in (_desk_samples.INJECTION, "We wish you a good summer with many kilometres."):
        notes = papers / "supplier-notes.md"
        notes.write_text(notes.read_text().replace(_desk_samples.INJECTION, words))
        fake.reset()
        fake.when("Call the tool ping.", ToolCall("ping"))
        script(fake, find=obeying)
        outcome, info = await ask(orchestra, f"What does the supplier say? folder: '{papers}'", fake)
        told = prompts(fake, _desk_model.RESEARCHER)
        assert re.search(rf"<data source=\"search_documents\">[^<]*{re.escape(words)}[^<]*</data>", told[1].texts[-1])
        assert "There is no tool 'send_files'" in told[2].texts[-1]
        assert "There is no passage '/etc/passwd'" in told[3].texts[-1]
        assert "left out, since it stands nowhere in the documents: “Every bike is perfect" in outcome.answer
        others = [r for r in fake.requests if r not in told and words in json.dumps(r.body)]
        assert not others, "nobody but the researcher has seen it"
        offered = [sorted(tool["function"]["name"] for tool in request.body.get("tools", ())) for request in told]
        seen.append((info.plan.tasks, agents(info), offered, prompts(fake, "You plan the work")[0].body["messages"]))
    assert seen[0] == seen[1]
    assert seen[0][2][0] == ["delegate", "list_files", "out_of_scope", "read_passage", "search_documents"]


async def test_invented_evidence_is_refused_and_the_rules_step_in(orchestra, fake):
    script(fake, find={"quotes": [{"passage": PLACE, "quote": "The mean downtime per job was 1.9 days."}]})
    outcome, info = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert agents(info)["claim"] == "offline_researcher"
    assert "1.9" not in outcome.answer
    assert f"**Q1** “{CLAIM}” — {PLACE}" in outcome.answer  # what the rules found is what the model's answer cites


async def test_a_program_that_reads_nothing_computes_nothing(orchestra, fake):
    script(fake, compute=[COMPUTED | {"code": "print('mean downtime: 2.1 days')"}, COMPUTED])
    outcome, _ = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert "it reads none of the files" in prompts(fake, _desk_model.CODER)[1].texts[-1]
    assert "mean downtime of 80 jobs in weeks 5 to 8: 4.1 days" in outcome.answer


async def test_programs_that_fail_are_corrected_twice_at_most(orchestra, fake):
    script(fake, compute=COMPUTED | {"code": "open('data/nowhere.csv')"})
    outcome, info = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert len(prompts(fake, _desk_model.CODER)) == 3
    assert agents(info)["data"] == "offline_coder"
    assert "mean 4.112" in outcome.answer or "4.1 days. [Q1, C1]" in outcome.answer


async def test_research_can_hand_computing_on(orchestra, fake):
    handing = ToolCall("delegate", {"instruction": "Compute the mean downtime.", "capability": "coding"})
    script(fake, plan={"tasks": [task("claim", "researcher")]}, find=[handing, FOUND])
    outcome, info = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert agents(info) == {"claim": "researcher", "claim+1": "coder", "answer": "communicator"}
    assert info.results["claim"].output["computed"] == info.results["claim+1"].output["done"]
    assert "the job data says 4.1 days. [Q1, C1]" in outcome.answer


@pytest.mark.parametrize(
    ("tasks", "made_by", "answer", "needs"),
    [
        ([task("a", "researcher"), task("b", "coder")], MODEL, "answer", {"a", "b"}),
        ([task("a", "researcher"), task("w", "communicator"), task("b", "coder")], MODEL, "w", {"a", "b"}),
        ([task("w", "communicator")], "edges", "communicator", {"researcher", "coder"}),
    ],
)
async def test_whatever_is_planned_the_answer_comes_last_and_rests_on_work(  # noqa: PLR0917
    orchestra, fake, tasks, made_by, answer, needs
):
    script(fake, plan={"tasks": tasks})
    outcome, info = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert (info.plan.made_by, [each.id for each in info.plan.sinks]) == (made_by, [answer])
    assert set(info.plan.by_id[answer].needs) == needs
    assert outcome.answer.startswith("# Does the mean downtime")


async def test_what_a_review_adds_is_in_the_answer(orchestra, fake):
    lacking = {
        "answered": False,
        "missing": ["the data"],
        "contradictions": [],
        "plan": {"tasks": [task("d", "coder")]},
    }
    claim = {"statements": [{"text": "The report says 2.1 days.", "cites": ["Q1"]}]}
    script(fake, plan={"tasks": [task("a", "researcher")]}, judge=[lacking, FINE], say=[claim, SAID])
    outcome, info = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert [each.id for each in info.plan.sinks] == ["round1.answer"]
    assert outcome.answer.count("## Evidence") == 1
    assert "the job data says 4.1 days. [Q1, C1]" in outcome.answer
    assert [judgement.added for judgement in info.plan.judgements] == [("round1.d", "round1.answer"), ()]


@pytest.mark.parametrize(
    "fault", [Fault.server_error(503), "this is no JSON at all", ""], ids=["down", "garbage", "mute"]
)
async def test_the_answer_comes_out_without_a_working_model(orchestra, fake, fault, monkeypatch):
    monkeypatch.setattr("orchestra.planners.pause_before", lambda *_: 0)
    monkeypatch.setattr("orchestra.attempts.pause_before", lambda *_: 0)
    fake.reset()
    fake.when(lambda _: True, fault)
    outcome, info = await ask(orchestra, research_desk.EXAMPLE, fake)
    assert agents(info) == {role: f"offline_{role}" for role in ROLES}
    assert info.plan.made_by == "edges"
    assert "mean 4.112" in outcome.answer


async def test_a_budget_ends_the_turn_with_an_answer_that_says_so(orchestra, fake):
    script(fake)
    outcome = await (await orchestra.start(team(fake, tokens=5500), research_desk.EXAMPLE))
    assert outcome.answer.startswith("# Does the mean downtime")
    assert "A budget was hit" in outcome.answer
    assert 0 < len(fake.requests) < 6


async def test_a_recorded_run_is_played_back_without_a_call(orchestra, fake):
    script(fake, find=[ToolCall("search_documents", {"query": "mean downtime"}), FOUND])
    flow = team(fake)
    run = await orchestra.start(flow, research_desk.EXAMPLE, record=True)
    first, calls = await run, len(fake.requests)
    replayed = await orchestra.replay(run.thread_id, workflow=flow)
    assert (replayed.same, replayed.different, len(fake.requests)) == (True, (), calls)
    assert replayed.outcome.answer == first.answer


# ---- the review

QUOTE = Finding(passage="a.md:5-9", quote="The pads of 48 bikes “wore” quickly.", heading="Weeks 5 to 8")
MEAN = Computation(what="mean downtime", code="…", output="4.112 days, 1,000 jobs")
EVIDENCE = Evidence([Findings(found=(QUOTE,)), Computations(done=(MEAN,))])


@pytest.mark.parametrize(
    ("text", "cites", "why"),
    [
        ("In weeks 5 to 8 the pads of 48 bikes wore quickly.", "Q1", None),
        ("The mean downtime was 4.1 days in 1000 jobs.", "C1", None),
        ("The mean downtime was 4.2 days.", "C1", "the number 4.2"),
        ("Pads “wore” quickly, downtime was 4 days.", "Q1 C1", None),
        ("The pads were “worn out”.", "Q1", "“worn out” does not stand"),
        ("The mean downtime was 4.1 days.", "Q1", "the number 4.1"),
        ("The mean downtime of 2031 was long.", "C1", None),  # the request says 2031
        ("Zeppelins are large.", "Q1", "does not speak of it"),
        ("The pads wore quickly.", "", "it cites nothing"),
        ("The pads wore quickly.", "Q1 Q7", "there is no Q7"),
    ],
)
def test_what_supports_a_statement(text, cites, why):
    found = problem(Statement(text, tuple(cites.split())), EVIDENCE, "How was 2031?")
    assert found is None if why is None else why in found


def test_what_is_not_supported_is_struck_out(papers):
    desk = desk_for(f"How long? folder: '{papers}'")
    good, bad = Statement("Downtime was 4.1 days.", ("C1",)), Statement("Pads last 9 years [Q1].", ("Q1",))
    draft = _desk_brief.brief(desk, desk.read(), EVIDENCE, [good, bad], ["Who pays? [Q1]"], MODEL)
    assert "- Pads last 9 years. [Q1]" in draft
    review = _desk_brief.review(draft, EVIDENCE, desk.question)
    assert not review.approved
    assert len(review.reasons) == 2  # what evidence does not tell needs none, and gets none by a trick
    body, evidence = review.revised.split("\n## Evidence\n")
    assert body.index("- Downtime was 4.1 days. [C1]") < body.index("## Left out in review")
    assert "- ~~Pads last 9 years.~~ the number 9 does not stand" in body
    assert "**C1** mean downtime" in evidence
    assert _desk_brief.review(review.revised, EVIDENCE, desk.question).approved
    nothing = _desk_brief.review(_desk_brief.brief(desk, desk.read(), EVIDENCE, [bad], (), MODEL), EVIDENCE, "")
    assert "“wore” quickly.” Weeks 5 to 8 [Q1]" in nothing.revised
    assert "these are extracts" in nothing.revised
