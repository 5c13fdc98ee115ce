"""Asking a model until what it says is what was asked for, or can't be: tools, repair, and an honest end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as as_tool
from langgraph.errors import GraphBubbleUp
from pydantic import TypeAdapter

from orchestra.errors import AgentError, Irreparable, ModelRefused, WorkflowError
from orchestra.metering import Scope, current_scope, silent
from orchestra.models.calls import Reply, call, limit_of
from orchestra.models.flaws import Flaw
from orchestra.models.parsing import Reading, looks_like_tool_call, read
from orchestra.models.profiles import Profile, names_of, profile_of
from orchestra.models.prompts import data
from orchestra.models.replies import HAND_BACK, HAND_ON, Form, ToolUse, callable_tools, enforced
from orchestra.secrets import keep_secret, strike_out
from orchestra.tasks import Delegate, OutOfScope, Usage, text_of

MOST_STEPS = 12
"""Rounds of tool calls in one attempt; a model that has not answered by then goes in circles."""

_MORE = 4
"""How much an output limit is raised, once, for an answer that was cut off."""

_UNSUPPORTED = (400, 404, 415, 422, 501)
"""HTTP statuses by which endpoints say that they don't know an option."""

_REMEDIES = {
    Flaw.EMPTY: "Your answer was empty. Answer the question.",
    Flaw.TRUNCATED: "",
    Flaw.BROKEN: "Your answer could not be read: {problem}. Give the whole answer again, as valid JSON.",
    Flaw.WRONG: "Your answer does not fit: {problem}. Give the whole corrected answer again, as JSON.",
    Flaw.AMBIGUOUS: "Your answer can be read in several ways: {problem}. Give one answer, as JSON.",
}
"""What a model is told of a flaw. A stream that broke off is not its fault: it is just asked again."""


async def ask_model(
    model: BaseChatModel,
    messages: str | Sequence[Any],
    *,
    output: Any = str,
    tools: Sequence[BaseTool | Callable[..., Any]] = (),
    max_tokens: int | None = None,
    repairs: int = 2,
) -> Any:
    """Ask a model, inside an agent or a planner of your own, with all that Orchestra's own agents have.

    The call keeps to the run's budgets and the model's rate limits, is recorded and replayed with the run, and its
    tokens are told as they come. A malformed answer is repaired where that is safe, else asked for again.

    Args:
        model: A LangChain chat model.
        messages: A prompt, or LangChain messages.
        output: The type of the answer.
        tools: What the model may call.
        max_tokens: Limit of the answer, in tokens; raised once, fourfold, for an answer that was cut off.
        repairs: How often a malformed answer is asked for again.

    Returns:
        The answer, of the declared type.

    Raises:
        Irreparable: The answers are not of the type.
        ModelRefused: The model declined.
        BudgetExceeded: A budget does not allow the call.
    """
    asked = [HumanMessage(messages)] if isinstance(messages, str) else convert_to_messages([*messages])
    return await Conversation(
        check_model(model), [*asked], output=output, tools=checked_tools(tools), max_tokens=max_tokens, repairs=repairs
    ).run()


def check_model(model: Any) -> BaseChatModel:
    """See that something is a chat model; its keys are struck out of messages from now on.

    Raises:
        WorkflowError: It is not.
    """
    if not isinstance(model, BaseChatModel):
        raise WorkflowError(
            f"{type(model).__name__} is not a LangChain chat model; pass one, such as "
            'ChatOpenAI(model="...", base_url="http://localhost:8000/v1").'
        )
    keep_secret(model)
    return model


def checked_tools(tools: Sequence[BaseTool | Callable[..., Any]]) -> list[BaseTool]:
    """Tools as LangChain has them, made of functions where needed.

    Raises:
        WorkflowError: One of them can't be a tool, or two share a name.
    """
    made: list[BaseTool] = []
    for each in tools:
        try:
            made.append(each if isinstance(each, BaseTool) else as_tool(each))
        except (TypeError, ValueError) as error:
            raise WorkflowError(f"{each!r} can't be a tool: {error}") from error
    names = [tool.name for tool in made]
    if twice := [name for name in names if names.count(name) > 1 or name in (HAND_BACK, HAND_ON)]:
        raise WorkflowError(f"A tool can't be called {twice[0]!r}: the name is taken.")
    return made


@dataclass(frozen=True, slots=True)
class _Mode:
    """How a call is made.

    Attributes:
        form: The form of the reply.
        options: What is passed to the model.
        native: Whether the endpoint calls tools by itself.
        told: What the model must be told of the form.
    """

    form: Form
    options: dict[str, Any]
    native: bool = False
    told: str = ""


@dataclass(slots=True)
class Conversation:
    """One question to a model, with what it takes to get an answer.

    Attributes:
        model: Who is asked.
        messages: The question; what is said in turn is added.
        output: The type of the answer.
        tools: What may be called.
        max_tokens: Limit of one answer.
        repairs: How often a malformed answer is asked for again.
        may_decline: Whether the model may hand the task back.
        may_delegate: Whether it may hand work on.
        scope: Whose calls these are.
    """

    model: BaseChatModel
    messages: list[BaseMessage]
    output: Any = str
    tools: Sequence[BaseTool] = ()
    max_tokens: int | None = None
    repairs: int = 2
    may_decline: bool = False
    may_delegate: bool = False
    scope: Scope = field(default_factory=current_scope)
    _profile: Profile = field(default_factory=Profile)
    _raised: bool = False
    _whole: bool = False
    _explained: bool = False
    _calls: int = 0
    _done: dict[str, str] = field(default_factory=dict[str, str])

    async def run(self) -> Any:
        """Ask until there is an answer; return it, or `OutOfScope`, or `Delegate`.

        Raises:
            Irreparable: There is none of the type.
            ModelRefused: The model declined.
            AgentError: It used tools without end.
        """
        found = await self.scope.step("profile", [*names_of(self.model), bool(self.tools)], self._find_out)
        self._profile = Profile(**found)
        steps, answering = 0, False
        while True:
            mode = self._mode(answering=answering)
            reply = await self._call(mode)
            if reply is None:  # the endpoint does not know an option: without it, then
                continue
            uses = self._uses(reply, mode)
            if not uses:
                reading = self._read(reply, mode)
                if reading.flaw is not None:
                    self._repair(reading, reply)
                    # What is asked for again is the answer, unless the stream broke off amid who knows what.
                    answering = mode.native and reading.flaw not in (Flaw.TRUNCATED, Flaw.CUT)
                    continue
                said = mode.form.open(reading.value)
                if not isinstance(said, ToolUse):
                    return said
                uses = [said]
            if (steps := steps + 1) > MOST_STEPS:
                raise AgentError(f"it used tools {MOST_STEPS} times and still had no answer")
            self.messages.append(reply.message)
            for use in uses:
                if use.name in (HAND_BACK, HAND_ON) and (handed := self._handed(use)) is not None:
                    return handed
                said = await self._use(use)
                self.messages.append(ToolMessage(said, tool_call_id=use.id) if use.id else HumanMessage(said))

    # What the endpoint can do

    async def _find_out(self) -> dict[str, Any]:
        """What is known of the endpoint. Whether it calls tools is asked once: one that ignores them does not say."""
        profile = profile_of(self.model)
        if self.tools and profile.tools is None:
            profile.tools = await self._calls_tools()
        return {"schema": profile.schema, "tools": profile.tools}

    async def _calls_tools(self) -> bool:
        probe = as_tool("ping", description="Say that you are there.")(lambda: "pong")
        options = callable_tools(self.model, [probe], may_decline=False, may_delegate=False)
        if options is None:
            return False
        asked = [HumanMessage("Call the tool ping.")]
        untaped = replace(self.scope, tape=None, emit=silent, usage=Usage())
        try:
            reply = await call(self.model, asked, untaped, **options, tool_choice="required", max_tokens=64)
        except Exception as error:
            if getattr(error, "status_code", None) in _UNSUPPORTED:
                return False
            raise
        finally:
            self.scope.usage += untaped.usage
        return bool(reply.calls)

    def _learned(self, what: str, *, can: bool) -> None:
        """Remember what the endpoint has shown, for this conversation and for all later ones."""
        for profile in (self._profile, profile_of(self.model)):
            setattr(profile, what, can)

    # One call

    def _mode(self, *, answering: bool) -> _Mode:
        """How to make the next call, by what is known of the endpoint."""
        ways = {"may_decline": self.may_decline, "may_delegate": self.may_delegate}
        native = callable_tools(self.model, self.tools, **ways) if self.tools and self._profile.tools else None
        if native is not None and not answering:
            form = Form(self.output)
            told = f"When you have what you need: {form.told()}" if not form.is_text else ""
            return _Mode(form, native, native=True, told=told)
        form = Form(self.output) if answering else Form(self.output, self.tools, **ways)
        if form.is_text:
            return _Mode(form, {})
        if self._profile.schema is not False and (options := enforced(self.model, form)) is not None:
            return _Mode(form, options, told=form.told() if self._explained else "Reply in JSON.")
        return _Mode(form, {}, told=form.told())

    async def _call(self, mode: _Mode) -> Reply | None:
        """Make a call; `None` if the endpoint does not know an option, which is remembered."""
        self._calls += 1
        options = dict(mode.options)
        if self.max_tokens is not None:
            options["max_tokens"] = self.max_tokens
        messages = self.messages
        if mode.told:
            system = next((i for i, m in enumerate(messages) if isinstance(m, SystemMessage)), None)
            whole = mode.told if system is None else f"{messages[system].text}\n\n{mode.told}"
            messages = [SystemMessage(whole), *(m for i, m in enumerate(messages) if i != system)]
        try:
            return await call(self.model, messages, self.scope, whole=self._whole, **options)
        except Exception as error:
            if getattr(error, "status_code", None) not in _UNSUPPORTED or not mode.options or is_too_long(error):
                raise
            if mode.native:
                self._learned("tools", can=False)
            elif self._profile.schema is None:
                self._learned("schema", can=False)
            else:
                raise
            self.scope.note(f"call {self._calls}: {strike_out(str(error))[:200]}; asked without that option")
            return None

    def _uses(self, reply: Reply, mode: _Mode) -> list[ToolUse]:
        """The tools that a reply calls; also in the text, by models that know only their own way to write it."""
        if reply.answer.finish is None:  # it broke off: a call may be lost, or half of one
            return []
        if mode.native and reply.calls:
            return [ToolUse(each["name"], each["args"], each.get("id") or "") for each in reply.calls]
        found = looks_like_tool_call(reply.answer.text, [tool.name for tool in self.tools])
        return [ToolUse(*found)] if found is not None else []

    def _read(self, reply: Reply, mode: _Mode) -> Reading:
        """Read an answer; learn from it whether the endpoint keeps to a schema."""
        reading = read(reply.answer, mode.form.adapter, is_text=mode.form.is_text)
        if reading.cleaned:
            self.scope.note(f"call {self._calls}: the answer was {reading.cleaned}")
        if mode.options and not mode.native and self._profile.schema is None and reply.answer.finish == "stop":
            kept = reading.flaw is None and not reading.cleaned
            if kept or reading.flaw is Flaw.BROKEN or reading.cleaned:
                self._learned("schema", can=kept)
        return reading

    def _repair(self, reading: Reading, reply: Reply) -> None:
        """Do about a malformed answer what its kind asks for.

        Raises:
            Irreparable: Nothing more can be done.
            ModelRefused: The model declined.
        """
        flaw, problem = reading.flaw, reading.problem
        assert flaw is not None  # noqa: S101 -- called for flaws only
        if flaw is Flaw.REFUSED:
            raise ModelRefused(problem or "the model declined, and gave no reason")
        kind = f"call {self._calls}: {flaw}: {problem or 'nothing came'}"
        limit = self.max_tokens or limit_of(self.model) or (reply.message.usage_metadata or {}).get("output_tokens")
        if flaw is Flaw.CUT and not self._raised and limit:
            self._raised, self.max_tokens = True, limit * _MORE
            self.scope.note(f"{kind}; asked again with a limit of {self.max_tokens:,} tokens")
            return
        if flaw is Flaw.CUT or self.repairs <= 0:
            self.scope.note(f"{kind}; given up")
            raise Irreparable(f"the model's answer is {flaw} after {self._calls} calls: {problem or 'nothing came'}")
        self.repairs -= 1
        self._whole = self._whole or flaw is Flaw.EMPTY  # LangChain's streams of text drop a refusal
        self._explained = self._explained or flaw is Flaw.WRONG  # no endpoint keeps to all that a schema can say
        self.scope.note(f"{kind}; asked again")
        if remedy := _REMEDIES[flaw]:
            told = remedy.format(problem=problem)
            self.messages += [AIMessage(reply.answer.text or "(nothing)"), HumanMessage(told)]

    # Tools

    async def _use(self, use: ToolUse) -> str:
        """Call a tool and return what to tell the model: its result, marked as data, or what was wrong."""
        tool = next((each for each in self.tools if each.name == use.name), None)
        if tool is None:
            there = ", ".join(each.name for each in self.tools) or "none"
            self.scope.note(f"call {self._calls}: it wanted the tool {use.name[:80]!r}, which it was not given")
            return f"There is no tool {use.name[:80]!r}. There are: {there}."
        if not isinstance(use.arguments, dict):
            self.scope.note(f"call {self._calls}: the arguments for {use.name} are not valid JSON")
            return f"The arguments for {use.name} are not valid JSON. Call it again."
        key = json.dumps([use.name, use.arguments], sort_keys=True, default=str)
        if key in self._done:
            return f"You have called {use.name} with these arguments already. Use what it gave you."

        async def make() -> str:
            try:
                return text_of(await tool.ainvoke(cast("dict[str, Any]", use.arguments)))
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001 -- the model is told, and may do better
                return f"{use.name} failed: {type(error).__name__}: {strike_out(str(error))[:500]}"

        self._done[key] = said = await self.scope.step("tool", {"tool": use.name, "arguments": use.arguments}, make)
        return data(use.name, said)

    def _handed(self, use: ToolUse) -> OutOfScope | Delegate | None:
        """What a model that calls tools hands back or on; `None` if it may not, or says it wrongly."""
        allowed = self.may_decline if use.name == HAND_BACK else self.may_delegate
        kind = OutOfScope if use.name == HAND_BACK else Delegate
        try:
            return TypeAdapter(kind).validate_python(use.arguments) if allowed else None
        except ValueError:
            return None


def is_too_long(error: BaseException) -> bool:
    """Whether an endpoint says that a prompt does not fit into its model's context."""
    said = str(error).lower()
    return "context" in said and any(word in said for word in ("length", "exceed", "window", "maximum", "too long"))
