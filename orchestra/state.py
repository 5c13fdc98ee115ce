"""The state of a workflow's graph, and the channels that keep outputs as JSON and show them typed.

What a node writes, what the saver stores and what a checkpoint holds is plain JSON, which every serializer keeps and
every later version of the code can read. What a user sees in the state is a `Result` with its output in the agent's
declared type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from langchain_core.messages import AnyMessage
from langgraph.channels import LastValue
from langgraph.channels.base import BaseChannel
from langgraph.errors import InvalidUpdateError
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from orchestra.agents import Agent
from orchestra.errors import MalformedOutput
from orchestra.outputs import decode, encode
from orchestra.tasks import Plan, Result

Roster = Mapping[str, Agent]


def encode_result(result: Result, roster: Roster) -> dict[str, Any]:
    """Turn a result into JSON."""
    raw = result.model_dump(mode="json", exclude={"output"}, exclude_defaults=True)
    if result.ok:
        agent = roster.get(result.agent or "")
        raw["output"] = (
            to_jsonable_python(result.output, fallback=str) if agent is None else encode(agent, result.output)
        )
    return raw


def decode_result(raw: Mapping[str, Any], roster: Roster) -> Result:
    """Turn JSON back into a result, its output in its agent's declared type.

    An agent that has left the roster leaves its output as plain JSON.

    Raises:
        MalformedOutput: The output is no longer of the declared type.
    """
    agent = roster.get(raw.get("agent") or "")
    if agent is None or "output" not in raw:
        return Result.model_validate(raw)
    return Result.model_validate({**raw, "output": decode(agent, raw["output"])})


class Results(dict[str, Result]):
    """Results by task id, and the same as they are stored.

    Attributes:
        raw: The results as JSON.
    """

    def __init__(self, results: Mapping[str, Result], raw: Mapping[str, Any]) -> None:
        super().__init__(results)
        self.raw = raw


class ResultsChannel(BaseChannel[dict[str, Result], Any, dict[str, Any]]):
    """Results of the current turn by task id. Updates merge; `Overwrite` replaces, which is how a turn begins.

    A reducer would copy the mapping once per task; this merges all updates of a superstep at once.
    """

    __slots__ = ("_raw", "_roster", "_seen")

    def __init__(self, roster: Callable[[], Roster], key: str = "") -> None:
        super().__init__(dict[str, Result], key)
        self._roster = roster
        self._raw: dict[str, Any] = {}
        self._seen = Results({}, self._raw)

    def __eq__(self, other: object) -> bool:
        """Two of them agree: LangGraph compares channels of one name in several schemas."""
        return isinstance(other, ResultsChannel)

    __hash__ = None  # pyright: ignore[reportAssignmentType] -- as every channel with an __eq__

    @property
    def ValueType(self) -> Any:  # noqa: N802 -- LangGraph's name
        """What is read."""
        return dict[str, Result]

    @property
    def UpdateType(self) -> Any:  # noqa: N802 -- LangGraph's name
        """What is written."""
        return dict[str, Any]

    def from_checkpoint(self, checkpoint: Any) -> Self:
        """Make the channel as a checkpoint has it."""
        new = self.__class__(self._roster, self.key)
        if isinstance(checkpoint, dict):
            new._raw = checkpoint  # noqa: SLF001 -- another of the same class
        return new

    def checkpoint(self) -> dict[str, Any]:
        """What is stored."""
        return self._raw

    def get(self) -> Results:
        """The results, decoded once each. One whose type has changed since keeps its plain JSON: it is still there."""
        if self._seen.raw is not self._raw:
            seen = self._seen
            self._seen = Results(
                {
                    task: seen[task] if seen.raw.get(task) is raw else self._decode(raw)
                    for task, raw in self._raw.items()
                },
                self._raw,
            )
        return self._seen

    def _decode(self, raw: Mapping[str, Any]) -> Result:
        try:
            return decode_result(raw, self._roster())
        except MalformedOutput:
            return Result.model_validate(raw)

    def is_available(self) -> bool:
        """There always is a mapping."""
        return True

    def update(self, values: Sequence[Any]) -> bool:
        """Merge what the superstep's nodes wrote."""
        if not values:
            return False
        replaced = [value.value for value in values if isinstance(value, Overwrite)]
        if len(replaced) > 1:
            raise InvalidUpdateError("Results can be overwritten by one node per superstep only.")
        merged: dict[str, Any] = dict(replaced[0] if replaced else self._raw)
        for value in values:
            if isinstance(value, Overwrite):
                continue
            for task, raw in value.items():
                merged[task] = raw.model_dump(mode="json") if isinstance(raw, Result) else raw
        self._raw = merged
        return True


class PlanChannel(LastValue[Any]):
    """The plan of the turn: stored as JSON, seen as a `Plan`."""

    __slots__ = ("_decoded",)

    def __init__(self, typ: Any, key: str = "") -> None:
        super().__init__(typ, key)
        self._decoded: tuple[Any, Plan] | None = None

    def get(self) -> Plan:
        """The plan, validated again; once per value, since LangGraph reads all channels at every superstep."""
        raw = super().get()
        if self._decoded is None or self._decoded[0] is not raw:
            self._decoded = (raw, raw if isinstance(raw, Plan) else Plan.model_validate(raw))
        return self._decoded[1]


def is_planned(values: Mapping[str, Any]) -> bool:
    """Whether the plan in a state is for the request in it; else a new turn begins."""
    return "plan" in values and values["planned"]["asked"] == values.get("asked", "")


class PastTurn(TypedDict):
    """An earlier turn of the thread.

    Attributes:
        turn: Its number, from 1.
        opening: The id of its first message.
        request: What was asked.
        answer: What was answered; empty if the turn was left unfinished.
        ended: "answered"; "superseded", if a new request came while a question or a timer was open; or "stopped", if
            one came after a crash, a drain or a cancellation.
        dropped: The questions that were open then; of a timer, `until` when it was to wait.
        results: Results by task id, as JSON.
    """

    turn: int
    opening: str
    request: str
    answer: str
    ended: Literal["answered", "superseded", "stopped"]
    dropped: list[Any]
    results: dict[str, Any]


def answer_id(asked: str) -> str:
    """The id of the message that answers a request: the same however often the turn is finished."""
    return f"answer-{asked}"


def _merged(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {**before, **after}


def make_schema(roster: Callable[[], Roster], own: Mapping[str, Any]) -> Any:
    """Build the state schema of one workflow.

    Args:
        roster: Gives the agents by name, for decoding outputs.
        own: The user's own keys, with their annotations or channels.

    The keys: `request` and `messages` as in the contract; `given`, what a team received from its parent; `asked`, an
    id of the request, `opening`, the id of its first message, and `dropped`, the questions that were open when it came;
    `plan` and `planned`, the plan and the request it was made for; `turn` and `branch`, the turn's number and an id of
    the thread's branch; `results`, `history`, and `answer`, which is `None` while the turn is unfinished; `halfway`,
    what was done of tasks that a drain left for later.
    """
    keys = dict(own) | {
        "request": str,
        "messages": Annotated[list[AnyMessage], add_messages],
        "given": dict[str, Any],
        "asked": str,
        "opening": str,
        "dropped": list[Any],
        "plan": Annotated[Plan, PlanChannel(dict)],
        "planned": dict[str, str],
        "turn": int,
        "branch": str,
        "results": Annotated[dict[str, Result], ResultsChannel(roster)],
        "answer": str | None,
        "halfway": Annotated[dict[str, Any], _merged],
        "history": list[PastTurn],
    }
    make: Any = TypedDict  # made at run time, which type checkers do not follow
    return make("WorkflowState", keys)
