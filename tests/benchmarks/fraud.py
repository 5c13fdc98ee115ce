"""How much fraud the financial operations find, beside an amount threshold and an isolation forest.

    python tests/benchmarks/fraud.py [--size 100000] [--tune 1 2 3 4 5] [--report 101 102 103]

Everything was tuned on the seeds of `--tune`: the weights of the rules (by hand and by random search, before), and
here the threshold and the forest's contamination. Figures are of the seeds of `--report`, which nobody had looked at.
Each baseline is tuned twice, for money saved and for F1. Samples are generated (`graphs/_finance_sample.py`), so they
say how the methods compare on this kind of data, and nothing about anybody's real data.

Positive is what a method would hold; true is what is labelled as fraud. Sanctions, structuring and altered amounts are
other checks' business and are reported apart. Money saved is the amount of fraud that is held, less COST for each false
alarm, whatever the currency. The forest gets what the rules know, as numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest

from graphs import _finance_checks as checks
from graphs import _finance_payments as payments
from graphs import _finance_sample, _finance_screening, financial_operations
from graphs._finance_crime import COMPLIANCE, FRAUD, TAMPERED
from graphs._finance_rows import Rows, read
from orchestra import Orchestra

COST = 15
"""What a false alarm costs: a quarter of an hour of somebody's work, and an annoyed customer."""
Score = Callable[["Data", set[str]], float]


@dataclass
class Data:
    rows: Rows
    labels: dict[str, str]
    names: Path

    @property
    def fraud(self) -> dict[str, str]:
        return {name: kind for name, kind in self.labels.items() if kind in FRAUD}


def generate(folder: Path, size: int, seed: int) -> Data:
    sample = _finance_sample.make(size, seed)
    data, names = sample.write(folder / f"{size}-{seed}")
    return Data(read(str(data)), sample.labels, names)


def rules(data: Data) -> set[str]:
    """What the fraud team holds, and the duplicates that the transaction team holds."""
    held, _ = checks.judge(data.rows, [check(data.rows) for check in financial_operations.CHECKS.values()])
    return {order.id for order in held} | {hit.id for hit in payments.duplicates(data.rows).hits}


def saved(data: Data, held: set[str]) -> float:
    stopped = sum(row.minor / 100 for row in data.rows.good if row.id in held and row.id in data.fraud)
    return stopped - COST * len(held - data.labels.keys())


def above(data: Data, amount: float) -> set[str]:
    return {row.id for row in data.rows.good if row.kind == "purchase" and row.minor / 100 > amount}


def f1(data: Data, held: set[str]) -> float:
    return 2 * len(held & data.fraud.keys()) / (len(held - (data.labels.keys() - data.fraud.keys())) + len(data.fraud))


def best(
    candidates: Sequence[float], tuning: Sequence[Any], score: Score, decide: Callable[[Any, float], set[str]]
) -> float:
    """The setting with the highest score over the tuning samples: pairs of data and what decides on it."""
    return max(candidates, key=lambda value: sum(score(data, decide(judge, value)) for data, judge in tuning))


def features(rows: Rows) -> np.ndarray:
    """What the rules look at, as numbers, in the order of `rows.good`.

    A dozen more (hours of the day, kinds of payment, ages of merchants, …) made the forest worse on the tuning seeds.
    """
    customers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.good:
        customers[row.payee][row.customer] += 1
    found: dict[str, tuple[float, ...]] = {}
    for theirs in rows.by_customer.values():
        usual = median(math.log(row.minor) for row in theirs)
        spread = 1.4826 * median(abs(math.log(row.minor) - usual) for row in theirs) or 0.35
        seen: set[str] = set()
        present = None
        for place, row in enumerate(theirs):
            recent = [other for other in theirs[max(0, place - 30) : place + 30] if abs(other.when - row.when) < 3600]
            hours = (row.when - present.when) / 3600 if present else 1e3
            far = checks.distance(present, row) if present and not row.online else 0.0
            found[row.id] = (
                (math.log(row.minor) - usual) / spread,
                sum(abs(other.when - row.when) < 600 for other in recent),
                sum(other.online for other in recent),
                math.log1p(far / max(hours, 0.01)),
                row.payee not in seen,
                row.category in checks.RISKY,
                len(customers[row.payee]) / sum(customers[row.payee].values()),
            )
            seen.add(row.payee)
            present = present if row.online or row.latitude is None else row
    return np.array([found[row.id] for row in rows.good], dtype=float)


class Forest:
    """An isolation forest over `features`, fitted to the very transactions that it judges, as the rules are."""

    def __init__(self, data: Data) -> None:
        kept = [place for place, row in enumerate(data.rows.good) if row.kind in {"purchase", "transfer"}]
        numbers = features(data.rows)[kept]
        forest = IsolationForest(n_estimators=200, random_state=0, n_jobs=2).fit(numbers)
        order = np.argsort(forest.score_samples(numbers))
        self._strangest = [data.rows.good[kept[place]].id for place in order]

    def held(self, contamination: float) -> set[str]:
        return set(self._strangest[: round(contamination * len(self._strangest))])


def tell(method: str, seed: object, data: Data, held: set[str]) -> list[float]:
    hit = held & data.fraud.keys()
    false = len(held - data.labels.keys())
    figures = [len(hit) / max(1, len(hit) + false), len(hit) / len(data.fraud), false, saved(data, held)]
    print(f"{method:26} {seed!s:>5} {figures[0]:10.3f} {figures[1]:8.3f} {false:13,} {figures[3]:13,.0f}")
    return figures


def tell_kinds(reports: Sequence[Data], held: dict[str, list[set[str]]]) -> None:
    print("\nrecall by kind, all seeds together" + "".join(f"{method:>27}" for method in held))
    for kind in FRAUD:
        every = sum(list(data.labels.values()).count(kind) for data in reports)
        line = f"{kind:20} of {every:5}{'':5}"
        for each in held.values():
            pairs = zip(reports, each, strict=True)
            hit = sum(data.labels.get(name) == kind for data, names in pairs for name in names)
            line += f"{hit / every:27.3f}"
        print(line)


def tell_others(reports: Sequence[Data]) -> None:
    """Sanctions, structuring, altered amounts: caught, labelled, and false."""
    found: dict[str, list[int]] = {kind: [0, 0, 0] for kind in (*COMPLIANCE, TAMPERED)}
    for data in reports:
        batch: Any = SimpleNamespace(sanctions=str(data.names), threshold=10_000)
        series = _finance_screening.structuring(data.rows, batch).structuring
        caught = {
            "sanctions": {hit.id for hit in _finance_screening.sanctions(data.rows, batch).hits},
            "structuring": {name for one in series for name in one.deposits},
            TAMPERED: {hit.id for hit in payments.balances(data.rows).hits},
        }
        for kind, names in caught.items():
            true = {name for name, label in data.labels.items() if label == kind}
            for place, count in enumerate((len(names & true), len(true), len(names - true))):
                found[kind][place] += count
    print("\nthe other teams, all seeds together: caught, of so many, false alarms")
    for kind, (hit, every, false) in found.items():
        print(f"{kind:20} {hit:5} {every:5} {false:5}")


async def whole(folder: Path, size: int) -> float:
    """Seconds for the whole workflow on a sample, with generating it, posting it and the audit."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    async with Orchestra(f"sqlite:///{folder / 'runs.db'}") as orchestra:
        started = time.perf_counter()
        run = await orchestra.start(financial_operations.flow, f"Process {size} sample transactions, seed 101")
        outcome = await run
        assert all(result.ok for result in outcome.results.values()), outcome.answer
        return time.perf_counter() - started


def tuned(tuning: Sequence[Data]) -> dict[str, Callable[[Data], set[str]]]:
    """The methods, each baseline once with the setting that saves most money and once with the best F1."""
    methods: dict[str, Callable[[Data], set[str]]] = {"this workflow": rules}
    amounts = [round(50 * 1.15**step, 2) for step in range(40)]
    parts = [0.0002 * 1.3**step for step in range(22)]
    forests = [(data, Forest(data)) for data in tuning]
    for aim, score in {"money": saved, "F1": f1}.items():
        amount = best(amounts, [(data, data) for data in tuning], score, above)
        part = best(parts, forests, score, Forest.held)
        methods[f"amount > {amount:,.0f} ({aim})"] = partial(above, amount=amount)
        methods[f"forest {part:.3%} ({aim})"] = partial(by_forest, part=part)
    return methods


def by_forest(data: Data, part: float) -> set[str]:
    return Forest(data).held(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--tune", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--report", type=int, nargs="+", default=[101, 102, 103])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        methods = tuned([generate(folder, arguments.size, seed) for seed in arguments.tune])
        reports = [generate(folder, arguments.size, seed) for seed in arguments.report]
        print(f"tuned on seeds {arguments.tune}, reported on {arguments.report}, {arguments.size:,} transactions each")
        print(f"\n{'method':26} {'seed':>5} {'precision':>10} {'recall':>8} {'false alarms':>13} {'money saved':>13}")
        held: dict[str, list[set[str]]] = defaultdict(list)
        for method, decide in methods.items():
            figures = []
            for seed, data in zip(arguments.report, reports, strict=True):
                held[method].append(decide(data))
                figures.append(tell(method, seed, data, held[method][-1]))
            mean = [sum(column) / len(column) for column in zip(*figures, strict=True)]
            print(f"{method:26} {'mean':>5} {mean[0]:10.3f} {mean[1]:8.3f} {mean[2]:13,.0f} {mean[3]:13,.0f}")
        lost = sum(row.minor / 100 for data in reports for row in data.rows.good if row.id in data.fraud)
        print(f"fraud amounts to {lost / len(reports):,.0f} in the mean")
        tell_kinds(reports, held)
        tell_others(reports)
        del reports
        seconds = asyncio.run(whole(folder, arguments.size))
        print(f"\nthe whole workflow on {arguments.size:,}, generated, posted and audited: {seconds:.1f} s")


if __name__ == "__main__":
    main()
