"""Units of numbers: physical ones, currencies, and what is counted.

The structure of a unit is parsed here and pint sees single names of letters: it would evaluate what it is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, cast
from unicodedata import category, normalize

from babel import Locale
from babel.core import get_global
from babel.numbers import get_currency_name

_TELLING = frozenset(["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Sm", "Sc"])
"""Categories of characters that tell texts apart: letters, marks, numbers, and the signs of sums and money."""


def fold(text: str) -> str:
    """A text as it is compared: without case, accents, white space, punctuation and a leading article.

    What tells texts apart stays: "C++", "C#", "p < 5", the end of "AA-", and the space between two numbers.
    """
    plain = "".join(c for c in normalize("NFKD", text) if not "\u0300" <= c <= "\u036f").casefold().strip()
    plain = re.sub(r"^[\W_]*(?:(?:the|an?)\s+(?=[^\W\d]))+", "", normalize("NFKC", plain)).replace("&", " and ")
    kept = "".join(c if c == "#" or category(c) in _TELLING else " " for c in plain)
    kept = re.sub(r"(?<=\d) +(?=\d)", "\0", kept).replace(" ", "").replace("\0", " ")
    return (kept + "-" if re.search(r"\w-[\W_]*$", plain) else kept) or plain


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit means.

    Attributes:
        base: The unit it is a multiple of: one of pint's, "ratio", "# " and a noun for what is counted, or nothing.
        currency: ISO code, for money; with a `base` for what it is paid per.
        scale: A word such as "million" beside the unit.
        factor: Its size in the base unit.
        zero: Where its zero is in the base unit.
    """

    base: str = ""
    currency: str = ""
    scale: float = 1.0
    factor: float = 1.0
    zero: float = 0.0

    @property
    def bare(self) -> bool:
        """Whether there is none."""
        return not self.base and not self.currency


BARE = Unit()
"""No unit."""


def _table(text: str) -> dict[str, str]:
    """What names stand for; a comma parts names, an underscore is a blank in them."""
    pairs = (entry.split("=") for entry in text.split())
    return {name.replace("_", " "): meaning for names, meaning in pairs for name in names.split(",")}


_SCALES = _table("""
    hundred,hundreds=1e2 thousand,thousands,k,tsd=1e3 lakh,lakhs=1e5 crore,crores=1e7 dozen=12
    million,millions,mln,mio,mn=1e6 billion,billions,bln,bn=1e9 trillion,trillions,tn,trn=1e12""")

_LETTERS = _table("K=1e3 M,m=1e6 B,b=1e9 T=1e12")
"""Scales that are units too."""

_RATIOS = _table("""
    %,percent,pct,per_cent=1e-2 ‰,permille=1e-3 bp,basis_point,basis_points=1e-4 ppm=1e-6 ppb=1e-9""")

_CASUAL = _table("""
    c,°c,deg_c,degrees_c,degrees_celsius,degree_celsius=degC f,°f,deg_f,degrees_f,degrees_fahrenheit=degF °=degree
    sqm=m^2 sqft=ft^2 kmh,kph=km/h bps=bit/s kbps=kbit/s mbps=Mbit/s gbps=Gbit/s kb=kB mb=MB gb=GB tb=TB pb=PB
    mo,mos=month wk,wks=week '=ft "=in""")
"""What people write, in any case, that pint calls something else or takes for something else."""

_BITS = frozenset(("Kb", "Mb", "Gb", "Tb"))

_COUNTED = frozenset(["pcs", "fps", "cats", "points", "hands", "links", "chains", "rods", "counts", "dots", "turns"])
"""What pint takes for units and people count."""

_ALONE = frozenset("mgshdtlLKAVWJNBΩy")
"""Letters that are units on their own; some others are constants of nature to pint."""

_MONEY = _table("""
    $,us$,us_dollar,dollar,buck=USD c$=CAD s$=SGD ¥=JPY rmb,renminbi=CNY rs,rupee=INR won=KRW euro=EUR
    sterling,pound_sterling,pounds_sterling=GBP""")
"""Names and symbols of currencies that babel does not have, or has for several."""


def _singular(text: str) -> str:
    return re.sub("(?<=[a-z]{2})s$", "", text.casefold())


@cache
def _currencies() -> Mapping[str, str]:
    """ISO codes of currencies in use by what is one's alone: names, the last word of names, symbols."""
    english = Locale("en")
    codes = cast("Mapping[str, str]", english.currencies)
    symbols = cast("Mapping[str, str]", english.currency_symbols)
    countries = cast("Mapping[str, Sequence[tuple[str, Any, Any, bool]]]", get_global("territory_currencies"))
    now = {code for had in countries.values() for code, _, end, tender in had if tender and not end} & codes.keys()
    names: dict[str, set[str]] = {}
    for code in now:
        for name in (get_currency_name(code, count, "en") for count in (None, 1, 2)):
            for short in (name, name.split()[-1]):
                names.setdefault(_singular(short), set()).add(code)
    found = {name: min(of) for name, of in names.items() if len(of) == 1}
    for code in now:
        if (symbol := symbols.get(code, code)) != code:  # these are known by small letters too: "usd", but not "all"
            found |= {symbol.casefold(): code, code.casefold(): code}
    return {**found, **_MONEY, **{code: code for code in codes}}


def currency_of(text: str) -> str:
    """The ISO code of a currency; nothing if a text names none."""
    text, known = text.strip(" ."), _currencies()
    singular = _singular(text) if len(text) > 4 else text  # Gbps are no pounds
    return known.get(text) or known.get(text.casefold()) or known.get(singular) or ""


@lru_cache(maxsize=4096)
def unit_of(before: str, after: str, other: str) -> Unit | None:
    """The unit of a number, by what is before and after it, and by what was given beside it; nothing if it is none."""
    code = currency_of(before) if before else ""
    if before and not code:
        return None
    beside = _named(" " + other, money=bool(code)) if other else BARE
    own = _named(after, money=bool(code or (beside and beside.currency)))
    if own and own.bare and other:  # what the number says itself goes first
        own = beside and (beside if own.scale == 1 else replace(beside, scale=own.scale))
    if own is None or not code:
        return own
    fits = own.currency == code or (not own.currency and own.base[:1] in {"", "/"})
    return replace(own, currency=code) if fits else None


def _named(text: str, *, money: bool) -> Unit | None:
    """The unit in the text after a number; nothing if it is none."""
    attached = not text.startswith(" ")
    text = " ".join(re.sub(r"[()]", " ", text).split()).strip(" .,")
    if (what := text.partition(" of ")[0]).casefold() not in _SCALES:  # GB of memory, but millions of dollars
        text = what
    if ratio := _RATIOS.get(text.casefold()):
        return Unit("ratio", factor=float(ratio))
    if attached and re.match(r"(?:st|nd|rd|th)\b", text):
        return None
    head, *per = re.split(r" ?/ ?| ?\b(?:per|an?) ", text)
    scale, head = _scaled(head.strip(), attached=attached, money=money)
    code = currency_of(head)
    mixed = None if code else re.fullmatch(r"([A-Z]{0,3}[$€£¥₹]|[A-Z]{3}) ?([A-Za-z]+)", head)
    if mixed and (code := currency_of(mixed[1])):  # USDm, $ bn, EUR million
        more, rest = _scaled(mixed[2], attached=True, money=True)
        if rest:
            return None
        scale *= more
    elif head and not code and (physical := _physical("/".join((head, *per)))):
        return replace(physical, scale=scale)
    first = BARE if code or not head else _counted(head)
    below = [unit for name in per if (unit := _physical(name) or _counted(name)) and not unit.zero]
    if first is None or len(below) < len(per):
        return None
    base = "".join((first.base, *sorted("/" + unit.base for unit in below)))
    return Unit(base, code, scale, 1 / math.prod(unit.factor for unit in below))


def _scaled(text: str, *, attached: bool, money: bool) -> tuple[float, str]:
    """Take words such as "million" from the front of a text."""
    scale = 1.0
    while found := re.match(r"([A-Za-z]+)(?:\.? (?:of )?|(?=[$€£¥₹])|\.?$)", text):
        word, rest = found[1], text[found.end() :]
        if word in _LETTERS:
            if not (money or word == "M" or (attached and (word not in "mb" or rest)) or currency_of(rest)):
                break
            scale *= float(_LETTERS[word])
        elif factor := _SCALES.get(word.casefold()):
            scale *= float(factor)
        else:
            break
        text, attached = rest, False
    return scale, text


def _counted(text: str) -> Unit | None:
    """What is counted is a unit too: people, requests, stars."""
    if not re.fullmatch(r"[^\W\d_]+(?:[ &'-]+[^\W\d_]+){0,3}", text):
        return None
    return Unit("# " + _singular(fold(text)))


@cache
def _registry() -> Any:
    """Pint's units, made when the first is needed: with the import that takes over half a second."""
    import pint  # noqa: PLC0415 -- see above; who claims no units need not wait for it

    return cast("Any", pint.UnitRegistry())


_FACTOR = re.compile(
    r"(?:(?P<power>square|sq\.?|cubic|cu\.?) )?(?P<name>[^\W\d_]+(?: [^\W\d_]+)?|°[CF]?|['\"])(?:\^?(?P<exp>-?[1-4]))?"
)


@lru_cache(maxsize=4096)
def _physical(text: str) -> Unit | None:
    """A unit that pint knows. It is taken apart here and pint sees single names: it evaluates what it is given."""
    unit: Any = None
    for index, part in enumerate(re.split(r" ?/ ?| per ", _usual(text))):
        for factor in part.split("*"):
            found = _FACTOR.fullmatch(factor.strip())
            one = found and _pint(found["name"])
            if not found or one is None:
                return None
            power = {"s": 2, "c": 3}.get((found["power"] or " ")[0], 1) * int(found["exp"] or 1)
            one **= power if index == 0 else -power
            unit = one if unit is None else unit * one
    registry = _registry()
    try:
        base = registry.Quantity(1.0, unit).to_base_units().units
        base = registry.degC if base == registry.kelvin else base  # half a percent of 293 K is no tolerance
        at = [float(registry.Quantity(x, unit).to(base).magnitude) for x in (0.0, 1.0, 2.0)]
    except (ValueError, ArithmeticError, TypeError):  # pint's own errors are one of these
        return None
    zero, factor = at[0], at[1] - at[0]
    if not 1e-60 < factor < 1e60 or not math.isclose(at[2] - at[1], factor, rel_tol=1e-6):  # decibels, for one
        return None
    return Unit("ratio" if str(base) == "dimensionless" else str(base), factor=factor, zero=zero)


def _usual(name: str) -> str:
    """What pint calls a unit that people write in another way; Gb are bits, while gb are bytes."""
    return (
        f"{name[0].lower() if name[0] == 'K' else name[0]}bit" if name in _BITS else _CASUAL.get(name.casefold(), name)
    )


def _pint(name: str) -> Any:
    """What pint calls a unit; nothing if it does not know it."""
    name = _usual(name)
    if name.casefold() in _COUNTED or (len(name) == 1 and name not in _ALONE) or not name.replace(" ", "a").isalpha():
        return None
    for spelling in dict.fromkeys((name.replace(" ", "_"), name.replace(" ", "_").lower())):
        try:
            return _registry().parse_units(spelling)
        except (ValueError, ArithmeticError, TypeError, AttributeError):  # an unknown unit is an AttributeError
            continue
    return None
