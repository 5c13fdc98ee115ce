from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra import Agent, Capability, Task
from orchestra.routing import Router


def specialist(name: str, *examples: str, capability: str = "", description: str = "") -> Agent:
    skill = Capability(capability or name, description, examples)
    return Agent(name, lambda task: task, capabilities=[skill], description=description)


ROSTER = [
    specialist(
        "researcher",
        "find out who makes the fastest database",
        "look up the market share of electric cars",
        "search for studies on sleep and memory",
        capability="research",
        description="finds facts in documents",
    ),
    specialist(
        "coder",
        "write a Python function that parses dates",
        "fix the failing unit test in the parser",
        "refactor this class into two modules",
        capability="coding",
        description="writes and repairs programs",
    ),
    specialist(
        "translator",
        "translate this letter into French",
        "what does this German sentence mean in English",
        "render the contract in Spanish",
        capability="translation",
        description="translates texts between languages",
    ),
]


def test_a_named_agent_and_an_exact_capability_need_no_judgement() -> None:
    router = Router(ROSTER, backups={"coder": ["translator"]})
    assert router.choose(Task(id="t", agent="coder")).agents == ("coder", "translator")
    assert router.choose(Task(id="t", capability="research", instruction="write code")).agents == ("researcher",)
    assert router.choose(Task(id="t", agent="nobody")).agents == ()


def test_free_text_goes_to_the_nearest_and_out_of_scope_to_nobody() -> None:
    router = Router(ROSTER)
    wanted = {
        "translate the manual into French please": "translator",
        "write a function that parses CSV files": "coder",
        "find out which database has the largest market share": "researcher",
    }
    for text, name in wanted.items():
        assert router.choose(Task(id="t", instruction=text)).agents[0] == name
    choice = router.choose(Task(id="t", instruction="bake a chocolate cake with cherries"))
    assert choice.agents == ()
    assert "nobody is capable" in choice.reason
    assert "threshold" in choice.reason


def test_a_spare_is_not_chosen_before_its_principal_and_shares_its_capability() -> None:
    spare = specialist("archivist", capability="research")
    router = Router([*ROSTER, spare], backups={"researcher": ["archivist"]})
    assert router.choose(Task(id="t", capability="research")).agents == ("researcher", "archivist")


def test_ties_go_by_name() -> None:
    twins = [specialist(name, capability="twin work") for name in ("b", "a", "c")]
    assert Router(twins).choose(Task(id="t", capability="twin work")).agents == ("a", "b", "c")


def test_embeddings_can_replace_ngrams() -> None:
    def embed(text: str) -> list[float]:
        return [float("x" in text), float("y" in text), 0.1]

    agents = [specialist("first", "x1", "x2"), specialist("second", "y1", "y2")]
    choose = Router(agents, embed=embed).choose
    assert choose(Task(id="t", instruction="yyy")).agents[0] == "second"


words = st.text(st.characters(codec="utf-8", exclude_characters="|:"), max_size=60)


@settings(max_examples=60)
@given(words, st.one_of(st.none(), words), st.permutations(ROSTER))
def test_routing_is_total_and_deterministic(text: str, capability: str | None, roster: list[Agent]) -> None:
    task = Task(id="t", instruction=text, capability=capability)
    choice = Router(ROSTER).choose(task)
    assert Router(roster).choose(task) == choice
    assert len(set(choice.agents)) == len(choice.agents)
    assert set(choice.agents) <= {agent.name for agent in ROSTER}
    assert choice.reason
