"""Financial operations: requests, rows, and what each rule holds and lets pass."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from graphs import _finance_checks as checks
from graphs import _finance_payments as payments
from graphs import _finance_sample, _finance_screening
from graphs._finance_crime import COMPLIANCE, FRAUD, TAMPERED
from graphs._finance_request import read_request
from graphs._finance_rows import read
from orchestra import RequestError

HEADER = "id,time,customer,type,amount,currency,payee,category,channel,place,latitude,longitude,balance"
START = datetime(2026, 3, 2, 12, tzinfo=UTC)
LISBON, OSAKA = "Lisbon,38.7,-9.1", "Osaka,34.7,135.5"


def row(number, hours, amount="20.00", payee="Corner Shop", *, who="C1", kind="purchase", at=LISBON, category=""):
    time = (START + timedelta(hours=hours)).isoformat()
    channel, place = ("present", at) if at else ("online", ",,")
    return f"T{number},{time},{who},{kind},{amount},EUR,{payee},{category},{channel},{place},"


@pytest.fixture
def rows(tmp_path):
    """Rows of lines; behind them two ordinary months of the customer C1, one purchase a day, some of them online."""

    def make(*lines, habits=True):
        usual = []
        for day in range(60 if habits else 0):
            where = None if day % 10 == 0 else LISBON
            usual.append(
                row(1000 + day, 24 * day, f"{20 + day % 7}.{day:02}", "Web Shop" if where is None else "Shop", at=where)
            )
        file = tmp_path / "transactions.csv"
        file.write_text("\n".join([HEADER, *lines, *usual, ""]))
        return read(str(file))

    return make


def points(found):
    return {hit.id: hit.points for hit in found.hits}


def listing(tmp_path, *names):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(names))
    return SimpleNamespace(sanctions=str(file), threshold=10_000)


# Requests


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ("Process them", "found none"),
        ("Process a.csv and b.csv", "found a.csv, b.csv"),
        ("Process sqlite:///x.db", "say which table"),
        ("Process 12 sample transactions", "ask for 100"),
        ("Process a.csv without fraud: maybe", "write hold"),
        ("Process a.csv threshold 1e4", "whole number"),
        ("Process a.csv sanctions nowhere.txt", "there is no such file"),
    ],
)
def test_a_request_that_cannot_be_done_is_refused_with_the_remedy(request_text, said):
    with pytest.raises(RequestError, match=said):
        read_request(request_text)


def test_a_request_says_where_from_where_to_and_how(monkeypatch):
    monkeypatch.setenv("FINANCE_WITHOUT_FRAUD", "hold")
    wanted = read_request("Process $BANK table payments, ledger postgresql://me@here/books, threshold 5000.")
    assert (wanted.source, wanted.table, wanted.ledger) == ("$BANK", "payments", "postgresql://me@here/books")
    assert (wanted.without_fraud, wanted.threshold) == ("hold", 5000)
    assert read_request('Process "my payments.csv" without fraud: flag').source == "my payments.csv"
    assert read_request("Process 20,000 sample transactions, seed 9").size == 20_000


def test_a_sample_stays_out_of_the_ledger_of_the_environment(monkeypatch):
    monkeypatch.setenv("FINANCE_LEDGER", "sqlite:///real.db")
    assert read_request("Process a.csv").ledger == "sqlite:///real.db"
    assert read_request("Process 500 sample transactions").ledger == ""


# Rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no column id, time"),
        ("id;time;customer;sum\n1;2;3;4\n", "no column amount, currency"),
        (HEADER + "\n", "no transactions"),
        (HEADER + "\n" + row(1, 0, "12,5") + "\n", "on line 2: 14 fields"),
        (HEADER + "\n" + row(1, 0, "12.345") + "\n", "more than the 2 decimal places of EUR"),
    ],
)
def test_a_file_that_is_no_table_of_transactions_is_refused(tmp_path, content, said):
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(RequestError, match=said):
        read(str(file))


def test_a_file_in_another_encoding_names_the_line(tmp_path):
    file = tmp_path / "bad.csv"
    file.write_bytes(f"{HEADER}\n{row(1, 0, payee='Café')}\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"line 2: not UTF-8"):
        read(str(file))


def test_single_bad_rows_are_rejected_with_their_reason(rows):
    bad = {
        row(1, 0, "-5"): "not above zero",
        row(2, 0, "five"): "not a number",
        row(1000, 0): "an earlier line",
        row(3, 0).replace("EUR", "EUX"): "not an ISO code",
        row(4, 0, kind="gift"): "is none of",
        row(5, 0).replace("2026-03-02", "02.03.26"): "not written like",
        row(6, 0, "1e30"): "too large",
        row(7, 0, "NaN"): "not a number",
    }
    found = rows(row(1000, 0), *bad)
    reasons = {other.line: other.why for other in found.bad}
    assert len(reasons) == len(bad) + 1, "and the usual row whose id was taken"
    for line, why in enumerate(bad.values(), 3):
        assert why in reasons[line]


def test_a_spreadsheets_dialect_is_understood(tmp_path):
    file = tmp_path / "sheet.csv"
    file.write_bytes("\ufeffID;Time;Customer;Amount;Currency\r\nA;2026-03-02 12:00;C1;12.50;eur\r\n".encode())
    (one,) = read(str(file)).good
    assert (one.id, one.minor, one.currency, one.when) == ("A", 1250, "EUR", START.timestamp())


def test_cents_are_exact(rows):
    found = rows(row(1, 0, "0.29"), row(2, 1, "1234567890.11").replace("EUR", "USD"), habits=False)
    assert [one.minor for one in found.good] == [29, 123456789011]


# Fraud


def test_a_tested_card_is_held_and_an_afternoon_in_the_shops_is_not(rows):
    tested = [row(n, 100 + n / 100, "1.50", f"Web {n}", at=None) for n in range(8)]
    strolled = [row(20 + n, 300 + n / 5, "30.00", f"Shop {n}") for n in range(6)]
    found = points(checks.velocity(rows(*tested, *strolled)))
    assert all(found[f"T{n}"] >= checks.HOLD for n in range(8))
    assert all(found.get(f"T{20 + n}", 0) < checks.HOLD for n in range(6))


def test_one_large_purchase_alone_is_not_held_but_several_at_risky_merchants_are(rows):
    def held(*lines):
        found = rows(*lines)
        orders, _ = checks.judge(found, [check(found) for check in (checks.velocity, checks.amounts, checks.merchants)])
        return {order.id for order in orders}

    assert not held(row(1, 100, "900.00", "Sofa House"))
    spent = [row(n, 100 + n / 10, "900.00", f"Cards {n}", at=None, category="gift cards") for n in range(3)]
    assert held(*spent) == {"T0", "T1", "T2"}


def test_a_card_in_two_places_is_held_where_it_does_not_belong(rows):
    assert points(checks.travel(rows(row(1, 101, at=OSAKA)))) == {"T1": 110}


def test_a_holiday_is_not(rows):
    abroad = [row(n, 24 * 60 + 20 + 24 * n, at=OSAKA) for n in range(8)]
    home = [row(20 + n, 24 * 69 + 20 + 24 * n) for n in range(8)]
    assert not checks.travel(rows(*abroad, *home)).hits


def test_a_merchant_from_nowhere_that_charges_many_cards_is_held_and_a_new_shop_with_regulars_is_not(rows):
    rogue = [row(n, 700 + n, f"{40 + n}.99", "Quick Services", who=f"C{n + 10}", at=None) for n in range(12)]
    shop = [row(100 + n, 700 + n, f"{9 + n}.50", "New Bakery", who=f"C{n % 6 + 10}") for n in range(48)]
    found = points(checks.merchants(rows(*rogue, *shop)))
    assert found == {f"T{n}": 105 for n in range(12)}


# Payments


def test_a_payment_booked_twice_is_held_and_equal_rents_and_tickets_are_not(rows):
    twice = [row(1, 50, "83.17", "Garage"), row(2, 51, "83.17", "Garage")]
    rent = [row(10 + n, 720 * n, "900.00", "Landlord", kind="transfer") for n in range(2)]
    tickets = [row(20 + n, 60 + n / 60, "11.00", "Cinema", who=f"C{n // 2}") for n in range(12)]
    found = payments.duplicates(rows(*twice, *rent, *tickets))
    assert points(found) == {"T2": 100}
    assert "60 minutes after T1" in found.hits[0].why


def test_a_balance_that_is_off_by_a_cent_is_held_once_and_a_rejected_row_excuses_the_next(rows):
    def lines(*pairs):
        return [row(n, n, amount) + balance for n, (amount, balance) in enumerate(pairs)]

    off = lines(("10.00", "90.00"), ("10.00", "80.00"), ("10.00", "69.99"), ("10.00", "59.99"))
    assert points(payments.balances(rows(*off, habits=False))) == {"T2": 100}
    assert "off by -0.01 EUR" in payments.balances(rows(*off, habits=False)).hits[0].why
    gap = lines(*[("1.00", f"{99 - n}.00") for n in range(8)], ("broken", "81.00"), ("10.00", "71.00"))
    assert not payments.balances(rows(*gap, habits=False)).hits


# Compliance


@pytest.mark.parametrize(
    ("payee", "matches"),
    [
        ("KELAVEN BAWICK PELAZO", True),
        ("Pelazo; Kelaven Bawick", True),
        ("Kelaven B. Pelazo", True),
        ("Kelavén Bawik Pelazo", True),
        ("Kelaven Pelazo", False),
        ("Kelaven Noreko Pelazo", False),
        ("Bawick Bakery", False),
    ],
)
def test_a_sanctioned_name_is_found_however_it_is_written(rows, tmp_path, payee, matches):
    found = _finance_screening.sanctions(
        rows(row(1, 0, payee=payee, kind="transfer"), habits=False),
        listing(tmp_path, "# names", "Kelaven Bawick Pelazo"),
    )
    assert bool(found.hits) is matches


def test_cash_in_parts_is_reported_and_a_shops_takings_are_not(rows, tmp_path):
    parts = [row(n, 24 * n, f"9{n}50.00", "cash", kind="deposit") for n in range(4)]
    days = enumerate((2500, 8800, 4100, 9700, 3300, 7900, 5200))
    takings = [row(10 + day, 24 * day, f"{amount}.00", "cash", who="C2", kind="deposit") for day, amount in days]
    found = _finance_screening.structuring(rows(*parts, *takings, habits=False), listing(tmp_path))
    (series,) = found.structuring
    assert (series.customer, series.minor) == ("C1", 3_680_000)
    assert not found.large


# Samples


def test_a_sample_has_every_kind_of_fraud_and_keeps_the_labels_apart(tmp_path):
    sample = _finance_sample.make(2000, 1)
    assert sample.rows == _finance_sample.make(2000, 1).rows != _finance_sample.make(2000, 2).rows
    assert len(sample.rows) == 2000
    assert set(sample.labels.values()) == {*FRAUD, *COMPLIANCE, TAMPERED}
    data, names = sample.write(tmp_path)
    written = data.read_text() + names.read_text()
    assert not any(kind in written for kind in (*FRAUD, *COMPLIANCE, TAMPERED))
    assert {file.name for file in tmp_path.iterdir()} == {data.name, names.name}
    found = read(str(data))
    assert not found.bad
    assert {hit.id for hit in payments.balances(found).hits} == {
        name for name, kind in sample.labels.items() if kind == TAMPERED
    }
