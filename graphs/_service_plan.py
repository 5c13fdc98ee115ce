"""From a request to tasks: its parts, who does each, and which part waits for which.

A request is cut where a new wish begins ("… and write", "… . How many"). Each part goes to whoever the engine's router
finds most like it, unless its words leave no doubt; a part that is like nobody's work becomes a stated part of the
answer. A letter waits for the analysis before it. The front desk has the last word: it puts everything together.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphs._service_desk import question_of
from graphs._service_handbook import about
from graphs._service_wishes import others, stated, who
from graphs._text import word_set
from orchestra import Agent, ModelPlanner, NoPlan, Plan, Task
from orchestra.routing import Router

FRONT, ANALYST, SERVICE, SALES = "front_desk", "data_analyst", "customer_service", "sales_outreach"
UNABLE = "Say that nobody at this desk can do this:"
_SHORT = {ANALYST: "data", SERVICE: "reply", SALES: "message"}
_VERBS = word_set(
    """
    write draft send tell show list give find count compare calculate compute sum rank name offer pitch recommend
    suggest apologise apologize answer reply explain check remember call address contact reach forget email invite
    promote upsell remind book buy sell fix repair translate play sing order cancel refund return change update
    delete remove insert add create make build design plan schedule arrange call pay transfer hire fire drive cook
    order analyse analyze report print export summarise summarize predict forecast stop don't do please prepare
    compose how what which who whose when where why can could would will is are does did have has was were
    """
)
# What the desk never does, however much the rest of the request sounds like its work.
_BEYOND = word_set(
    """
    book translate delete update insert remove fix repair play sing drive cook hire fire pay transfer predict forecast
    buy sell design build schedule
    """
)
# Words that say nothing of whose work it is.
_COMMON = word_set("a an the is are was be i me my we our us you your it its of in on at to for and or do does did can")
_COMMON |= word_set("could would will please write draft compose make what who this that there from with by so")
_AND = r"(?:and|then|and then|but|also|and also|plus)(?:,|\s+please)?"
_SEAM = re.compile(
    rf"(?P<end>[.!?;]+)\s+(?=\S)|,?\s+{_AND}\s+(?=(?P<next>[\w']+))"
    r"|,\s+(?=(?P<after>[\w']+))",
    re.IGNORECASE,
)
_WRITES = re.compile(
    r"\b(?:writ\w+|draft\w*|apolog\w+|repl(?:y|ies)|messages?|letters?|emails?|send|offers?|pitch|tell)\b",
    re.IGNORECASE,
)
# Words that decide where the router can't know: how a question about data begins, and what only sales does.
_COUNTS = re.compile(
    r"^(?:please |give me |show me |tell me |show |what (?:is|was|were) |our |my |the |a |all |total )*"
    r"(?:how many|how much (?:did|do|money|revenue)|number of|count|list(?: of)?|sum of|average|total|top|sales|"
    r"revenue|spending|(?:cancelled|open|late|newest|cheapest|best-selling) \w+s)\b(?! (?:message|e?mail|letter))",
    re.IGNORECASE,
)
_REPLIES = re.compile(r"^(?:\w+ ){0,3}(?:reply|answer|respond|apologi[sz]e|apology)\b", re.IGNORECASE)
_ADVISES = re.compile(r"\b(?:recommend\w*|upsell\w*|pitch\w*)\b", re.IGNORECASE)
_SELLS = re.compile(
    r"\b(?:promot\w*|offers?|(?:might|may|would) (?:\w+ )?like"
    r"|sales (?:message|e?mail|letter)s?)\b",
    re.IGNORECASE,
)
_BACK = re.compile(
    r"\b(?:them|they|him|her|those|these|it|each|the customers?|all of|accordingly|about that)\b", re.IGNORECASE
)
_POLITE = re.compile(r"^(?:please|kindly|then|also|and|could you|can you|would you|will you)[, ]+", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A part of a request and who does it; empty if nobody."""

    text: str
    agent: str


def parts_of(request: str) -> list[str]:
    """Cut a request where a new wish begins; a sentence that only tells something stays with its neighbour."""
    cuts = [0]
    for match in _SEAM.finditer(request):
        following = re.match(r"[\w']+", request[match.end() :])
        word = (following[0] if following else "").lower()
        if match["end"] or word in _VERBS or (word in {"i", "my"} and match["next"] and stated(request[match.end() :])):
            cuts.append(match.end())
    pieces = [request[start:end] for start, end in zip(cuts, [*cuts[1:], len(request)], strict=True)]
    pieces = [
        re.sub(r"(?:[,;]|\s(?:and|then|but|also|plus))+\s*(?:please\s*)?$", "", piece.strip()) for piece in pieces
    ]
    return [piece for piece in pieces if re.search(r"\w", piece)]


def routed(request: str, agents: Sequence[Agent]) -> list[Part]:
    """The parts of a request with who does each, neighbours of one agent together."""
    router = Router([agent for agent in agents if agent.name in _SHORT])
    found: list[Part] = []
    told = ""  # a sentence that waits for the one that it belongs to
    texts = parts_of(request)
    asking = [text for text in texts if not _introduces(text)]
    for text in asking or texts:
        agent = _agent_for(text, router)
        if not agent and not (_asks(text) and _telling(text)):
            if found and found[-1].agent:
                found[-1] = replace(found[-1], text=_joined(found[-1].text, text))
            else:
                told = f"{told} {text}".strip()
            continue
        part, told = Part(f"{told} {text}".strip(), agent), ""
        if found and agent and found[-1].agent == agent and agent != ANALYST:
            part = Part(_joined(found.pop().text, part.text), agent)
        found.append(part)
    return [*found, Part(told, "")] if told else found


def _joined(first: str, then: str) -> str:
    return f"{first}{'' if first[-1] in '.!?;' else ','} {then}"


def _agent_for(text: str, router: Router) -> str:
    if stated(text) or others(text) or _introduces(text):
        return SERVICE  # wishes, or who somebody is
    words = re.findall(r"[\w'-]+", _POLITE.sub("", text).lower())
    if not words or words[0] in _BEYOND:
        return ""
    for pattern, agent in ((_COUNTS, ANALYST), (_REPLIES, SERVICE), (_ADVISES, SALES)):
        if pattern.search(text):
            return agent
    choice = router.choose(Task(id="part", instruction=_telling(text) or "nothing"))
    if choice.agents:
        return choice.agents[0]
    return SALES if _SELLS.search(text) else SERVICE if about(text) else ""


def _introduces(text: str) -> bool:
    """Whether it only says who the user is; agents read that from the whole request."""
    return bool(who(text)) and not stated(text) and len(text.split()) < 8


def _telling(text: str) -> str:
    words = re.findall(r"[\w'-]+", _POLITE.sub("", text).lower())
    return " ".join(word for word in words if word not in _COMMON)


def _asks(text: str) -> bool:
    first = re.match(r"[\w']+", _POLITE.sub("", text))
    return text.rstrip().endswith("?") or bool(first and first[0].lower() in _VERBS)


class RulePlanner:
    """Plans by rules."""

    def plan(self, request: str, *, agents: Sequence[Agent], messages: Sequence[Any]) -> Plan:
        """Make a plan; it always has one."""
        del messages  # what was said before is in the agents' history
        tasks: list[Task] = []
        unable: list[str] = []
        for part in routed(question_of(request), agents):
            if not part.agent:
                unable.append(part.text)
                continue
            number = 1 + sum(task.agent == part.agent for task in tasks)
            id_ = _SHORT[part.agent] + (str(number) if number > 1 else "")
            needs = _needs(part, tasks)
            tasks.append(Task(id=id_, instruction=part.text, agent=part.agent, needs=needs, optional=frozenset(needs)))
        return with_front_desk(tasks, unable, "rules")


def _needs(part: Part, tasks: Sequence[Task]) -> tuple[str, ...]:
    """The analysis that a letter is about: the last one, if it says "them" or writes without a name."""
    before = [task.id for task in tasks if task.agent == ANALYST]
    if part.agent == ANALYST or not before or not (_WRITES.search(part.text) or _BACK.search(part.text)):
        return ()
    return (before[-1],)


def with_front_desk(tasks: Sequence[Task], unable: Sequence[str], made_by: str) -> Plan:
    """A plan that ends with the front desk, who gets everything and can do without any of it."""
    instruction = "Put the answer together."
    if unable:
        instruction = "\n".join([instruction, UNABLE, *(f"- {text}" for text in unable)])
    needs = tuple(task.id for task in tasks)
    last = Task(id="answer", instruction=instruction, agent=FRONT, needs=needs, optional=frozenset(needs))
    return Plan(tasks=(*tasks, last), made_by=made_by)


class DeskPlanner(ModelPlanner):
    """Plans by a model, and by rules where the model has no plan."""

    async def plan(self, request: str, *, agents: Sequence[Agent], limit: int = 10_000, **offered: Any) -> Plan:
        """Make a plan; it always has one."""
        try:
            made = await super().plan(request, agents=agents, limit=limit - 1, **offered)
        except NoPlan as error:
            plan = RulePlanner().plan(request, agents=agents, messages=())
            return plan.model_copy(update={"repairs": (f"{error}; so the plan follows from rules",)})
        unable = [task.instruction for task in made.tasks if task.agent == FRONT and "answer" not in task.id]
        gone = {task.id for task in made.tasks if task.agent == FRONT}
        kept: list[Task] = []
        for task in made.tasks:
            if task.id not in gone:
                needs = tuple(need for need in task.needs if need not in gone)
                id_ = "work_answer" if task.id == "answer" else task.id
                needs = tuple("work_answer" if need == "answer" else need for need in needs)
                kept.append(task.model_copy(update={"id": id_, "needs": needs, "optional": frozenset(needs)}))
        plan = with_front_desk(kept, unable, made.made_by)
        return plan.model_copy(update={"repairs": made.repairs})
