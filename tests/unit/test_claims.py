"""Claims: read from outputs, compared, settled, and put in place of those that lost."""

import random
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from orchestra.claims import Claim, Conflict, Held, Resolution, claims_of, find, with_settled
from orchestra.errors import WorkflowError
from orchestra.policies import Arbiter, AskPerson, ByConfidence, ByMajority, ByRecency, ByTrust, Prefer, Verdict, settle
from orchestra.values import Comparing, agree, read


def claim(value, **more):
    return Claim(**{"subject": "Acme", "attribute": "revenue", "value": value} | more)


def held(agent, value, task=None, **more):
    return Held(claim=claim(value, **more), task=task or agent, agent=agent)


def conflict(*claims):
    (found,) = find(claims)
    return found


def values(found):
    return [[str(one.claim.value) for one in side.held] for side in found.sides]


class Findings(BaseModel):
    title: str
    claims: list[Claim]


@dataclass(frozen=True, slots=True)
class Sheet:
    title: str
    claims: tuple[Claim, ...] = field(default=())


# --- claims ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": " "},
        {"attribute": ""},
        {"value": float("nan")},
        {"value": Decimal("Infinity")},
        {"confidence": 1.1},
        {"at": "yesterday"},
        {"author": "somebody"},
    ],
)
def test_a_claim_refuses_what_states_nothing(wrong):
    with pytest.raises(ValidationError):
        claim(**{"value": 1} | wrong)


@pytest.mark.parametrize("value", ["1k", 7, 0.1, True, Decimal("1.10"), date(2024, 3, 3), datetime(2024, 3, 3, 0, 0)])
@pytest.mark.parametrize("at", [None, date(2024, 3, 3), datetime(2024, 3, 3), datetime(2024, 3, 3, tzinfo=UTC)])
def test_a_claim_means_the_same_after_it_was_stored(value, at):
    before = claim(value, unit="USD", at=at)
    after = Claim.model_validate(before.model_dump(mode="json"))
    assert agree(read(after.value), read(value)) is True
    assert after.at == at
    assert type(after.at) is type(at)
    assert after.model_dump_json() == before.model_dump_json()


# --- finding ---


def test_what_agrees_in_other_words_is_no_conflict():
    assert find([held("a", "1,000 USD"), held("b", "$1k"), held("c", 1000, unit="dollars")]) == []


def test_a_conflict_says_who_says_what_from_where():
    found = conflict(
        held("a", "$1k", source="10-K"), held("b", "1,000 USD", subject="ACME"), held("c", "$2k", subject="Acme.")
    )
    assert values(found) == [["$1k", "1,000 USD"], ["$2k"]]
    assert found.text == "ACME, revenue: '$1k' (a, from 10-K; b) against '$2k' (c)"


def test_subjects_and_attributes_meet_however_they_are_spelled():
    claims = [
        held("a", 1, subject="the Acme-Corp", attribute="Market_Share"),
        held("b", 2, subject="acme corp", attribute="market share"),
        held("c", 3, subject="ACME Inc", attribute="share of the market"),
    ]
    assert len(find(claims)[0].sides) == 2
    known = Comparing(aliases={"Acme Corp": ["Acme Inc"], "market share": ["share of the market"]})
    assert len(find(claims, known)[0].sides) == 3
    assert find([held("a", 1), held("b", 2, attribute="profit"), held("c", 3, subject="Emca")]) == []


def test_an_equal_claim_of_one_task_counts_once_and_a_task_may_contradict_itself():
    found = conflict(held("a", 1), held("a", 1), held("a", 2))
    assert values(found) == [["1"], ["2"]]


@pytest.mark.parametrize(
    "pair", [("5 kg", "5 m"), ("12 EUR", "12 USD"), ("12", "twelve"), (">5", "7"), ("unknown", "12"), ("yes", "partly")]
)
def test_what_cannot_be_compared_is_no_conflict(pair):
    assert find([held("a", pair[0]), held("b", pair[1])]) == []


def test_rates_make_currencies_comparable():
    rates = Comparing(rates={"EUR": 1.1, "USD": 1})
    assert len(find([held("a", "12 EUR"), held("b", "12 USD")], rates)) == 1


def test_what_contradicts_nobody_is_not_drawn_into_a_conflict():
    assert values(conflict(*(held(str(v), v) for v in (100.0, 100.4, 100.8)))) == [["100.0"], ["100.8"]]
    dates = ["March 2024", "3 March 2024", "5 March 2024", "unknown"]
    assert values(conflict(*(held(d, d) for d in dates))) == [["3 March 2024"], ["5 March 2024"]]


def test_no_side_has_a_contradiction_in_it():
    chain = [held(str(v), v) for v in (100.0, 100.4, 100.8, 101.2)]
    assert values(conflict(*chain)) == [["100.0", "100.4"], ["100.8", "101.2"]]
    bounds = [held(v, v) for v in (">5", "3", "7")]
    assert values(conflict(*bounds)) == [["3"], ["7", ">5"]]
    several = [held(v, v) for v in ("5", "7", "20", "5-7")]
    assert values(conflict(*several)) == [["5"], ["7"], ["20"], ["5-7"]]  # a vote for neither 5 nor 7


def test_two_dimensions_of_one_attribute_are_two_conflicts():
    found = find([held(v, v) for v in ("5 kg", "7 kg", "3 m", "4 m")])
    assert [values(one) for one in found] == [[["3 m"], ["4 m"]], [["5 kg"], ["7 kg"]]]


@pytest.mark.parametrize("attribute", ["Python version", "port", "founding-year", "serial number"])
def test_numbers_that_are_names_have_no_tolerance(attribute):
    assert len(find([held("a", "8080", attribute=attribute), held("b", "8081", attribute=attribute)])) == 1
    assert len(find([held("a", "8080"), held("b", "8081")])) == 0


def test_sides_can_be_told_apart_by_their_values():
    found = conflict(held("a", "x" * 100 + "a"), held("b", "x" * 100 + "b"), held("c", "x" * 100 + "c"))
    assert len({side.value for side in found.sides}) == 3


STATED = st.sampled_from(
    [
        "5 kg",
        "5000 g",
        "7 kg",
        "5",
        "7",
        ">5",
        "about 6",
        "5-7 kg",
        "3 m",
        "Paris",
        "paris",
        "Rome",
        "yes",
        "no",
        "2024",
        "March 2024",
        "3 March 2024",
        "03/04/2024",
        "v1.2",
        "1.2.0",
        "12%",
        "0.12",
        "$5",
        "5 EUR",
        "100",
        "100.4",
        "100.8",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), STATED | st.text(max_size=8)), max_size=12), st.randoms())
def test_the_order_of_claims_does_not_matter(said, rng: random.Random):
    claims = [held(agent, value) for agent, value in said]
    mixed = rng.sample(claims, len(claims))
    found = find(claims)
    assert find(mixed) == found
    for one in found:
        sides = [[read(h.claim.value) for h in side.held] for side in one.sides]
        assert all(agree(a, b) is not False for side in sides for a in side for b in side)
        assert all(any(agree(a, b) is False for other in sides for b in other) for side in sides for a in side)


# --- settling ---


DATED = conflict(
    held("a", 1, confidence=0.9, at=date(2024, 3, 1)),
    held("b", 2, confidence=0.6, at=datetime(2024, 3, 2, 8, tzinfo=UTC)),
    held("c", 2, confidence=0.2),
)
TIED = conflict(held("a", 1, at=date(2024, 3, 2)), held("b", 2, at=datetime(2024, 3, 2, 8)))


@pytest.mark.parametrize(
    ("policy", "winner", "reason"),
    [
        (ByMajority(), 1, "2 of 3 agents"),
        (ByConfidence(margin=0), 0, "confidence 0.9 against 0.8"),
        (ByConfidence(margin=0.2), None, "no lead of 0.2"),
        (ByTrust({"a": 1.0, "b": 0.4}), 0, "trust 1 against 0.4"),
        (ByTrust({}), None, "trust 0 against 0"),
        (ByTrust({"a": 0.3, "b": 0.1, "c": 0.2}), None, "no lead"),
        (ByRecency(), 1, "of 2024-03-02 08:00:00+00:00, the next of 2024-03-01"),
        (Prefer("c"), 1, "c says so"),
        (Prefer("d"), None, "d says nothing of it"),
    ],
)
def test_policies(policy, winner, reason):
    verdict = policy.settle(DATED)
    assert verdict.winner == winner
    assert reason in verdict.reason


@pytest.mark.parametrize("policy", [ByMajority(), ByConfidence(), ByTrust({"a": 1, "b": 1}), ByRecency()])
def test_a_tie_decides_nothing(policy):
    assert policy.settle(TIED).winner is None


def test_an_agent_on_two_sides_counts_for_none():
    split = conflict(held("a", 1), held("a", 2), held("b", 2), held("c", 2))
    assert ByMajority().settle(split).winner == 1
    assert ByMajority().settle(conflict(held("a", 1), held("a", 2), held("b", 2))).winner is None
    assert Prefer("a").settle(split).reason == "a is on 2 sides"


def test_many_claims_of_one_agent_are_one_voice():
    loud = conflict(*(held("a", 1, task=str(n), confidence=0.5) for n in range(5)), held("b", 2, confidence=0.8))
    assert ByMajority().settle(loud).winner is None
    assert ByConfidence().settle(loud).winner == 1


def test_no_date_decides_nothing():
    assert ByRecency().settle(conflict(held("a", 1), held("b", 2))).winner is None
    assert ByRecency().settle(conflict(held("a", 1), held("b", 2, at=date(1990, 1, 1)))).winner == 1


def test_a_chain_is_walked_until_one_decides():
    resolution, rest = settle(DATED, [Prefer("d"), ByMajority(), Prefer("a")])
    assert rest == ()
    assert (resolution.winner, resolution.policy, resolution.reason) == (1, "majority", "2 of 3 agents")
    assert resolution.winning == claim(2, confidence=0.6, at=datetime(2024, 3, 2, 8, tzinfo=UTC))
    assert [lost.agent for lost in resolution.losers] == ["a"]


def test_a_chain_stops_before_an_agent_or_a_person():
    chain = [Prefer("d"), Arbiter("judge"), AskPerson(within=timedelta(days=1))]
    assert settle(DATED, chain) == (None, chain[1:])
    assert settle(DATED, chain[2:]) == (None, chain[2:])


class Broken:
    name = "broken"

    def settle(self, conflict):
        return Verdict(7, "seven is lucky")


class Silent:
    name = "silent"

    def settle(self, conflict):
        return None


def test_a_chain_that_decides_nothing_says_why():
    resolution, rest = settle(TIED, [ByMajority(), Prefer("z"), Broken(), Silent()])
    assert rest == ()
    assert not resolution.settled
    assert (resolution.winning, resolution.losers) == (None, ())
    assert resolution.policy == "majority, prefer z, broken, silent"
    assert "majority: at most 1 of 2 agents agree; prefer z: z says nothing of it" in resolution.reason
    assert "named side 7 of 2" in resolution.reason
    assert settle(TIED, [])[0].reason == "there is no further policy"


@pytest.mark.parametrize(
    "make",
    [
        lambda: ByConfidence(margin=-1),
        lambda: ByTrust({"a": float("nan")}),
        lambda: AskPerson(within=timedelta()),
        lambda: AskPerson(otherwise=0),
        lambda: AskPerson(within=timedelta(1), otherwise=-1),
    ],
)
def test_impossible_policies_are_refused(make):
    with pytest.raises(WorkflowError):
        make()


@pytest.mark.parametrize(
    "how", [{"winner": 1}, {"winner": None}, {"winner": None, "value": claim(Decimal("3.50"), at=date(2024, 1, 1))}]
)
def test_a_resolution_survives_storage(how):
    before = Resolution(conflict=DATED, policy="person", reason="because", by="Ada", reran=("a",), **how)
    after = Resolution.model_validate(before.model_dump(mode="json"))
    assert after.model_dump_json() == before.model_dump_json()
    assert (after.settled, len(after.losers)) == (before.settled, len(before.losers))
    assert with_settled([claim(1, confidence=0.9, at=date(2024, 3, 1))], [after]) == with_settled(
        [claim(1, confidence=0.9, at=date(2024, 3, 1))], [Resolution.model_validate_json(before.model_dump_json())]
    )


@pytest.mark.parametrize("how", [{"winner": 2}, {"winner": -1}, {"winner": 0, "value": claim(3)}])
def test_a_resolution_has_one_winner(how):
    with pytest.raises(ValidationError):
        Resolution(conflict=DATED, policy="person", reason="", **how)


# --- outputs ---


LOST, KEPT, WON = claim(1, subject="ACME"), claim(7, attribute="staff"), claim("2", source="report")
SETTLED = Resolution(
    conflict=conflict(Held(claim=LOST, task="a", agent="a"), Held(claim=WON, task="b", agent="b")),
    winner=1,
    policy="majority",
    reason="so",
)
BETTER = claim("2", source="report", subject="ACME")


@pytest.mark.parametrize(
    ("output", "settled"),
    [
        (LOST, BETTER),
        ([LOST, KEPT], [BETTER, KEPT]),
        ((KEPT, LOST), (KEPT, BETTER)),
        (Findings(title="t", claims=[KEPT, LOST]), Findings(title="t", claims=[KEPT, BETTER])),
        (Sheet("t", (LOST,)), Sheet("t", (BETTER,))),
        ({"claims": [LOST], "n": 1}, {"claims": [BETTER], "n": 1}),
        ({"claims": [LOST.model_dump(mode="json")]}, {"claims": [BETTER.model_dump(mode="json")]}),
        ({"claims": LOST}, {"claims": BETTER}),
    ],
)
def test_a_claim_that_lost_is_replaced_in_a_copy(output, settled):
    before = repr(output)
    assert with_settled(output, [SETTLED]) == settled
    assert repr(output) == before
    assert set(claims_of(output)) <= {LOST, KEPT}


@pytest.mark.parametrize(
    "output",
    [
        "text",
        b"bytes",
        5,
        None,
        [],
        ["text"],
        {"claims": "none"},
        {"claim": 1},
        {"claims": [{"subject": ""}]},
        Findings,
        KEPT,
        [KEPT],
        Findings(title="t", claims=[]),
        WON,
    ],
)
def test_an_output_in_which_nothing_lost_stays_itself(output):
    assert with_settled(output, [SETTLED]) is output


def test_an_unsettled_conflict_changes_nothing():
    output = [LOST]
    assert with_settled(output, [SETTLED.model_copy(update={"winner": None})]) is output


def test_what_a_person_says_replaces_all_sides():
    said = Resolution(
        conflict=SETTLED.conflict, winner=None, value=claim(3), policy="person", reason="counted", by="Ada"
    )
    assert [one.value for one in with_settled([LOST, WON], [said])] == [3, 3]
    assert {lost.agent for lost in said.losers} == {"a", "b"}


def test_a_conflict_needs_two_sides():
    with pytest.raises(ValidationError):
        Conflict(subject="a", attribute="b", sides=SETTLED.conflict.sides[:1])
