"""The research desk with a real model that is far too small for it: the run ends, and says honestly how."""

from langchain_openai import ChatOpenAI

from graphs import research_desk
from orchestra import Orchestra, RunState
from tests import smollm


async def test_the_desk_survives_a_model_that_writes_nonsense(small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = ChatOpenAI(model=smollm.MODEL, base_url=small_model, api_key="x", temperature=0, timeout=60, max_retries=0)
    flow = research_desk.build(model, tokens=9_000, max_tokens=6)  # what is cut off is asked for once more, fourfold
    async with Orchestra(f"sqlite:///{tmp_path}/runs.db") as orchestra:
        run = await orchestra.start(flow, research_desk.EXAMPLE)
        outcome = await run
        info = await orchestra.info(run.thread_id)
    assert outcome.state is RunState.DONE
    assert sum(result.usage.calls for result in info.results.values()) > 2
    assert sum((result.usage for result in info.results.values()), info.plan.usage).tokens <= 9_000
    # A valid plan: by the model, repaired or not, or by the edges with the reason.
    assert [task.agent for task in info.plan.sinks] == ["communicator"]
    assert info.plan.made_by == smollm.MODEL or "made no plan" in info.plan.repairs[0]
    # Every task has its output, and whoever failed at it is named with what went wrong.
    for result in info.results.values():
        assert result.ok
        for attempt in result.attempts:
            assert attempt.outcome == "ok" or attempt.error
    # An answer whose every statement holds, and which says who made it.
    assert outcome.answer.startswith("# Does the mean downtime")
    assert "## Evidence" in outcome.answer
    assert "reviewed by rules" in outcome.answer
    assert "sample documents" in outcome.answer
