"""What customers say of how they want to be treated, and who they are; it is remembered over sessions.

Preferences: `name_to_use`, `tone`, `language`, `channel`, `do_not_contact`. Facts: `customer` (who they said they are),
`last_complaint`, and `not_to_contact`, names of others who don't want to be contacted.
"""

# ruff: noqa: RUF001 -- requests come with typographic quotes

import re
from collections.abc import Callable, Mapping
from typing import Any

from orchestra import Assignment

_NAME = r"(?P<name>[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)?)"
_OWN = r"(?:i (?:would |['’]d )?(?:prefer|like|want)|always|from now on|please|write(?: to)? me|to me|with me|use)"
_TONES = {"formal": "formal", "friendly": "friendly", "informal": "friendly", "casual": "friendly", "warm": "friendly",
          "short": "brief", "brief": "brief"}  # fmt: skip
_LANGUAGES = "English|German|French|Spanish|Italian|Polish|Dutch|Portuguese|Turkish"
_CHANNELS = r"(?P<channel>e-?mail|phone|text message|sms|post|letter|chat)"
_ADVERTISING = r"(?:advertis\w*|marketing|newsletters?|promotion\w*|sales (?:messages?|calls?|e?mails?)|offers)"
_HOW = r"(?:contact|reach|answer|notify|inform|write(?: to)?) me (?:only )?(?:by|via|through|on)"
_SPOKEN = r"(?:write|answer|reply|contact|speak|language|prefer)"
_ENOUGH = r"(?:do not|don['’]t|never|stop|no longer|no more)"

_CONTACT = r"contact(?:ing)? me\b(?! by| via| on)"


def _channel(match: re.Match[str]) -> str:
    return match["channel"].lower().replace("e-mail", "email")


_PATTERNS: tuple[tuple[str, str, Callable[[re.Match[str]], Any]], ...] = (
    ("name_to_use", rf"(?i:\b(?:call|address) me) (?:as )?{_NAME}", lambda m: m["name"]),
    (
        "tone",
        rf"(?i:\b{_OWN}\b[^.;!?]{{0,40}}?\b(?P<tone>{'|'.join(_TONES)})(?:ly)?\b)(?! (?:message|e?mail|letter|note))",
        lambda m: _TONES[m["tone"].lower()],
    ),
    (
        "tone",
        r"(?i:\b(?:write|answer|reply|speak) (?:more |very )?(?P<tone>formal|informal|brief)ly\b)",
        lambda m: _TONES[m["tone"].lower()],
    ),
    ("language", rf"(?i:\b{_SPOKEN}\b[^.;!?]{{0,30}}?\b)(?P<l>{_LANGUAGES})\b", lambda m: m["l"]),
    ("channel", rf"(?i:\b{_HOW} {_CHANNELS}\b)", _channel),
    ("channel", rf"(?i:\bi (?:would )?prefer (?:to be contacted by )?{_CHANNELS}\b)", _channel),
    (
        "do_not_contact",
        rf"(?i:\b{_ENOUGH}\b[^.;!?]{{0,25}}?\b(?:{_CONTACT}|{_ADVERTISING})|\bunsubscribe\b|\bno {_ADVERTISING})",
        lambda _: True,
    ),
    (
        "do_not_contact",
        r"(?i:\b(?:may|can) (?:contact me|send me (?:offers|messages)) again\b|\bsubscribe me\b)",
        lambda _: None,
    ),
)
_OTHERS = (
    r"(?:[Dd]o not|[Dd]on['’]t) contact (?P<a>[A-Z][\w-]+ [A-Z][\w-]+)"
    r"|(?P<b>[A-Z][\w-]+ [A-Z][\w-]+) (?:does not|doesn['’]t) want to be contacted"
)
_WHO = (
    rf"(?i:\b(?:i am|i['’]m|this is|my name is)) (?:(?i:customer) (?:(?i:no\.?|number) )?#?(?P<id>\d+)|{_NAME})"
    r"|(?i:\bmy e-?mail(?: address)? is) (?P<email>[\w.+-]+@[\w.-]+\w)"
)
WISHES = ("name_to_use", "tone", "language", "channel", "do_not_contact")
_COMPLAINT = re.compile(
    r"\b(?:broken|damaged|late|missing|wrong|complain\w*|unhappy|scratch\w*|defect\w*|(?:not|never) (?:yet )?arrived"
    r"|hasn['’]t arrived|disappointed|faulty)\b",
    re.IGNORECASE,
)


def stated(request: str) -> dict[str, Any]:
    """The wishes that a request states; `None` is a wish taken back."""
    found: dict[str, Any] = {}
    if re.search(r"\bforget (?:all )?(?:my preferences|what you know (?:of|about) me)\b", request, re.IGNORECASE):
        found = dict.fromkeys(WISHES)
    for key, pattern, value in _PATTERNS:
        if match := re.search(pattern, request):
            found[key] = value(match)
    return found


def who(request: str) -> str:
    """Who a request says its writer is: a number, an email address or a name; empty if it does not say."""
    match = re.search(_WHO, request)
    return (match["id"] or match["email"] or match["name"] or "") if match else ""


def others(request: str) -> list[str]:
    """Names of others who, says the request, don't want to be contacted."""
    return [match["a"] or match["b"] for match in re.finditer(_OTHERS, request)]


def wishes_of(task: Assignment) -> dict[str, Any]:
    """What the user wants, with what this request adds; it is remembered when the task succeeds."""
    new = stated(task.request)
    for key, value in new.items():
        task.remember(key, value)
    if named := others(task.request):
        known = [*task.facts.get("not_to_contact", ()), *named]
        task.remember("not_to_contact", sorted({*known}), kind="fact")
    together = {**{key: task.preferences.get(key) for key in WISHES}, **new}
    return {key: value for key, value in together.items() if value is not None}


def complaint(task: Assignment, text: str, today: str, order: int | None) -> Mapping[str, Any] | None:
    """The last complaint before this request; a new one is remembered."""
    said = " ".join(part for part in re.split(r"(?<=[.!?;])\s+", text) if _COMPLAINT.search(part)).strip()
    if said and not re.search(r"\b(?:apolog|which|how many|list)", text, re.IGNORECASE):
        told = {"on": today, "about": said.rstrip(".")[:200], "order": order}
        task.remember("last_complaint", told, kind="fact")
    last = task.facts.get("last_complaint")
    return last if isinstance(last, Mapping) and last.get("about") != said.rstrip(".")[:200] else None
