"""Reading and comparing values: what is claimed to be understood, and the laws that hold for any text."""

import sys
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestra.errors import WorkflowError
from orchestra.readings import Words
from orchestra.values import Comparing, Relation, agree, read, relate

SAME = {
    "numbers": "1,000|1000 · 1 000|1,000 · 1.000,00 EUR|€1,000 · 12,34,567|1234567 · 1'000'000|1e6 · 1.234.567|1234567",
    "dots": "1.000|1 · 0,500|0.5 · 3,5|3.5 · .5|1/2 · 3½|3.5 · 1.2 x 10⁶|1.2 million · 5 kg|5 kg · ٣|3",
    "scales": "1.2M|1,200,000 · 3 bn|3,000,000,000 · $1k|1000 dollars · 5 lakh|500,000",
    "letters": "5m|5 metres · 5B|5 billion · 5 B|40 bits · 1.2m users|1.2 million users",
    "signs": "(1,234)|-1234 · \u22125|-5 · ($5)|-5 USD · $-5|-$5 · minus 5 °C|-5 degrees Celsius",
    "money": "1,000 USD|$1k · USD 5M|5 million US dollars · £5m|5 million pounds sterling · ¥100|100 yen · €5|5 euros",
    "prices": "$10/month|$120 per year · 5 dollars per user per month|$5/month/user · CHF 20|20 Swiss francs",
    "percent": "12%|0.12 · 12%|12 · 12 percent|0.12 · 25 basis points|0.25% · 4.5/5|90% · 3 out of 4|75%",
    "mass": "5 kg|5000 g · 5 kg|11.02 lb · 100 thousand tonnes|1e8 kg · 5 KG|5 kilograms",
    "length": "10 km|6.2137 miles · 5 ft 11 in|180.3 cm · 5'11\"|71 inches · 10 square kilometres|10 km2 · 2 m²|2 sq m",
    "heat": "20 °C|68 °F · 25 C|77 degrees Fahrenheit · 300 K|26.85 °C",
    "data": "1 GiB|1.074 GB · 1000 mb|1 GB · 100 Mbps|12.5 MB/s · 5 Gbps|625 MB/s · 8 Gb|1 GB",
    "time": "90 min|1.5 hours · 1h30m|90 minutes · 2 hours and 15 minutes|2.25 h · 60 km/h|37.28 mph",
    "counts": "7 million people|7,000,000 people · 100 requests per second|6000 requests/minute · 7 users|7",
    "about": "about 5|5.2 · ~100|97 · 5.2|5 or so · about 2000|1998",
    "ranges": "5-7 kg|6000 g · $5-7m|$6 million · between 10 and 20 percent|15% · 5 ± 0.2 m|5.1 m · -5 to -3|-4",
    "bounds": ">5|more than 5 · at least 100|≥ 100 · 20,000+|over 20,000",
    "dates": "2024-03-03|3 March 2024 · Sunday, March 3, 2024|3rd of March 2024 · 03.04.2024|3 Apr 2024",
    "orders": "13/04/2024|2024/04/13 · 3/4/2024|03/04/2024",
    "parts": "March 2024|3 March 2024 · 2024|March 2024 · Q1 2024|February 2024 · H2 2024|2024-Q3 · 1990s|1994",
    "moments": "2024-03-03T14:00Z|2024-03-03 15:00:10+01:00 · 2024-03-03T14:00:00Z|3 March 2024 2pm",
    "zones": "2024-03-03T23:30-05:00|2024-03-03 · 2024-03-03T23:30-05:00|2024-03-04",
    "versions": "v1.2|1.2.0 · 1.2|1.2.0 · version 3|v3.0 · 1.2.0rc1|1.2.0-rc.1",
    "flags": "yes|TRUE · No.|false",
    "remarks": "$5 million (2023)|5M USD · 5 kg (11 lb)|5000 g · 42% of users|0.42 · 5 GB of RAM|5 GB · USD|dollars",
    "texts": "Paris|paris. · New York|new-york · São Paulo|sao  paulo · the United States|United States · R&D|r and d",
}
OTHER = {
    "numbers": "1.000|1000 · 1,000|1,010 · 5|-5 · 1998|2004 · 1k|1m EUR",
    "units": "5 kg|5 g · 20 °C|21 °C · 5 ft|5 m · 5 GB|5 Gb · 5-7 kg|8 kg · about 5|6 · 20 dB|6.18 · $5/h|$5/min",
    "bounds": ">5|3 · at least 100|99 · under 5 km|6 km · 20,000+|19,000 · at most 3|4-6 · 5,000+ users|4,000 users",
    "dates": "2024|March 2023 · 03/04/2024|5 May 2024 · 3 March 2024|4 March 2024 · 14:00, 3 May|15:00, 3 May",
    "moments": "2024-03-03T14:00Z|2024-03-03T15:00Z · 2024-03-03T14:00Z|2024-03-03T14:00+05:00",
    "clocks": "2024-03-03T14:00|2024-03-03 14:01",
    "versions": "v1.2|v1.2.1 · 1.2.0|1.2.0rc1 · 192.168.1.1|192.168.1.2",
    "words": "yes|no · Paris|London · C++|C · AA-|AA · iPhone 15|iPhone 16 · p < 5|p > 5",
}
UNLIKE = (
    "5 kg|5 m · 12|twelve · $5|5 kg · 500 staff|500 desks · unknown|Paris · 11 in 5 ft|71 inches · 72 points|1 inch"
)
UNLIKE += " · 12 EUR|12 USD · yes|maybe"
OPEN = ">5|7 · 5-7|6-8 · 03/04/2024|3 April 2024 · 03/04/2024|4 March 2024"


def pairs(*tables):
    return [pair.split("|") for table in tables for pair in table.split(" · ")]


@pytest.mark.parametrize(("a", "b"), pairs(*SAME.values()))
def test_the_same_in_other_words(a, b):
    assert agree(read(a), read(b)) is True


@pytest.mark.parametrize(("a", "b"), pairs(*OTHER.values()))
def test_a_contradiction(a, b):
    assert agree(read(a), read(b)) is False


@pytest.mark.parametrize(
    ("a", "b", "relation"),
    [(*pair, Relation.UNLIKE) for pair in pairs(UNLIKE)] + [(*pair, Relation.OPEN) for pair in pairs(OPEN)],
)
def test_no_contradiction_and_no_agreement(a, b, relation):
    assert relate(read(a), read(b)) is relation
    assert agree(read(a), read(b)) is None


def test_the_unit_may_stand_beside_the_value_and_the_value_goes_first():
    assert agree(read(5, "million USD"), read("$5M")) is True
    assert agree(read("5k", "USD"), read("$5,000")) is True
    assert agree(read(3.5, "$bn"), read("3,500,000 thousand dollars")) is True
    assert agree(read("5", "USD (millions)"), read(Decimal("5e6"), "USD")) is True
    assert agree(read(12, "%"), read(0.12)) is True
    assert agree(read("5 kg", "g"), read(5, "kg")) is True
    assert agree(read(5, "g/100 ml"), read(5, "mg/100 ml")) is False  # a unit that can't be read is kept
    assert agree(read("$5", "EUR"), read("$5")) is None  # two currencies for one number are no number


def test_dates_that_are_no_text():
    paris = timezone(timedelta(hours=1))
    assert agree(read(date(2024, 3, 3)), read("3 March 2024")) is True
    assert agree(read(datetime(2024, 3, 3, 15, tzinfo=paris)), read(datetime(2024, 3, 3, 14, tzinfo=UTC))) is True
    assert agree(read(datetime(2024, 3, 3, 15)), read(date(2024, 3, 4))) is False


def test_what_the_day_comes_first_means():
    first = Comparing(day_first=True)
    assert agree(read("03/04/2024", comparing=first), read("3 April 2024"), first) is True
    assert agree(read("03/04/2024", comparing=first), read("4 March 2024"), first) is False
    assert agree(read("03/04/2024"), read("3/4/2024")) is True  # whatever it is, it is the same


def test_labels_are_not_numbers():
    assert agree(read("3.1", label=True), read("3.10", label=True)) is False
    assert agree(read(8080, label=True), read("8081", label=True)) is False
    assert agree(read(">=3.10", label=True), read("<3.10", label=True)) is False
    assert agree(read("8,080", label=True), read(8080, label=True)) is True
    assert agree(read("v1.2", label=True), read(1.2, label=True)) is True
    assert agree(read("2024", label=True), read("March 2024", label=True)) is True


def test_tolerance_rates_and_aliases():
    assert agree(read("100"), read("100.5")) is True
    assert agree(read("100"), read("100.6")) is False
    assert agree(read("100"), read("109"), Comparing(relative=0.1)) is True
    assert agree(read("0.01 m"), read("0.02 m"), Comparing(absolute=0.01)) is True
    rates = Comparing(rates={"EUR": 1.1, "USD": 1.0})
    assert agree(read("100 EUR"), read("$110"), rates) is True
    assert agree(read("100 EUR"), read("$100"), rates) is False
    assert agree(read("100 EUR"), read("£100"), rates) is None
    names = Comparing(aliases={"United States": ["USA", "America"]})
    assert agree(read("U.S.A.", comparing=names), read("america", comparing=names), names) is True


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"relative": 1.5}, "relative tolerance of 1.5"),
        ({"absolute": float("nan")}, "absolute tolerance of nan"),
        ({"rates": {"EURO": 1.0}}, "'EURO'"),
        ({"rates": {"EUR": 0}}, "for EUR"),
        ({"aliases": {"a": "b"}}, "names for 'a' are one text"),
        ({"aliases": {"x1": ["b"], "y1": ["B"]}}, "'b' stands for"),
    ],
)
def test_comparing_refuses(options, named):
    with pytest.raises(WorkflowError, match=named):
        Comparing(**options)


WRITTEN = st.one_of(
    st.text(max_size=60),
    st.text("0123456789.,-+/~<>()%$€ kKmMeE:TZ'\"^*x", max_size=40),
    st.builds(
        "{}{} {}{}".format,
        st.sampled_from(["", "$", "about ", ">", "USD ", "-", "v", "between "]),
        st.integers(0, 3000) | st.decimals(0, 100, places=2) | st.sampled_from(["1,000", "5-7", "1/2", "3 to 4"]),
        st.sampled_from(["", "kg", "m", "km/h", "°C", "million", "GB", "May 2024", "users/day", "EUR", "k", "or more"]),
        st.sampled_from(["", " USD", "²", " 2024", " 5 in", "."]),
    ),
)


@settings(max_examples=300, deadline=None)
@given(WRITTEN, WRITTEN, st.none() | WRITTEN)
@example("12345678901", "v1", None)
@example("9**9**9 m", "5 m^9", "__import__('os')")
def test_any_text_is_read_and_compared_alike_in_both_directions(a, b, unit):
    one, other = read(a, unit), read(b)
    assert agree(one, read(a, unit)) is True
    assert relate(one, other) is relate(other, one)


@settings(max_examples=100, deadline=None)
@given(st.integers() | st.floats() | st.decimals() | st.dates() | st.datetimes() | st.booleans(), st.none() | WRITTEN)
def test_any_value_is_read(value, unit):
    assert agree(read(value, unit), read(value, unit)) is True


@settings(max_examples=100, deadline=None)
@given(st.integers(10_000, 10**12), st.sampled_from(["kg", "USD", "km", "users", ""]))
def test_a_number_is_what_it_is_in_all_forms(number, unit):
    forms = [f"{number} {unit}", f"{number:,} {unit}", f"{number:,}".replace(",", " ") + unit, f"{number}.00 {unit}"]
    forms += [f"{number / 1e6!r} million {unit}"] if number % 1000 == 0 else []
    assert all(agree(read(form), read(number, unit)) for form in forms)
    assert not any(agree(read(form), read(number * 1.01, unit)) for form in forms)


@pytest.mark.parametrize(
    "text",
    [c * (200 // len(c)) for c in ["1", "1,", "1 ", "(", "5 m*", "1.1.", "5 ft ", "1 to ", "~", "about ", "m", "-5"]]
    + ["9" * 10_000, "5 " + "k" * 190, "5" + " million" * 24, "9e999", "1e400 km", "9**9**9**9", "5 km**99999"],
)
def test_hostile_text_takes_no_time(text):
    read("5 kg")  # pint's units are made once
    started = time.process_time()
    read(text, text[:100])
    assert time.process_time() - started < 0.5  # a hundred times what it takes


def test_long_text_is_only_text():
    assert isinstance(read("5 kg" + " " * 300), Words)


def test_reading_without_units_does_not_load_pint():
    import subprocess

    code = "import sys; from orchestra.values import read; read('$1'); read('3 May 2024'); print('pint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
