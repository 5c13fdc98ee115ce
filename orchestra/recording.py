"""Recording what models and tools answered in a run, and playing it back: the same run without a single call.

What is asked is recorded with what came back, in the order of each attempt. Played back, each question is held against
the recorded one; the first that differs is reported, and nothing is asked for real.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NoReturn, cast

import pydantic_core
from langgraph.store.base import BaseStore

from orchestra import errors
from orchestra.errors import AttemptTimeout, OrchestraError, ReplayDiverged, RequestError
from orchestra.metering import USED
from orchestra.secrets import strike_out

_ROOT = "orchestra_tape"

_PAGE = 1000


def _place(thread: str, turn: str) -> tuple[str, ...]:
    digest = hashlib.sha256(f"{thread}/{turn}".encode()).hexdigest()
    return (_ROOT, digest[:32])


class Recorder:
    """Records the calls of a turn in a store.

    Args:
        store: Where.
        thread: The thread.
    """

    replaying = False

    def __init__(self, store: BaseStore | None, thread: str) -> None:
        if store is None:
            raise RequestError(
                "Model calls are recorded in a store, and this graph was compiled without: compile(store=...)."
            )
        self._store = store
        self._thread = thread
        self._at: tuple[str, ...] | None = None
        self._count: Counter[str] = Counter()

    def begin(self, turn: str) -> None:
        """Say which turn it is, once that is known."""
        self._at = self._at or _place(self._thread, turn)

    async def step(self, key: str, kind: str, request: Any, make: Callable[[], Awaitable[Any]]) -> Any:
        """Do it, and record what came of it."""
        self._count[key] += 1
        number = self._count[key]
        entry: dict[str, Any] = {"key": key, "number": number, "kind": kind, "request": as_json(request)}
        try:
            entry["reply"] = reply = as_json(await make())
        except Exception as error:
            entry["error"] = _told(error)
            raise
        except BaseException as error:  # cut off: by a timeout, mostly
            entry["cut"] = getattr(error, USED, {})
            raise
        finally:
            assert self._at is not None  # noqa: S101 -- whoever starts a turn says so
            name = hashlib.sha256(key.encode()).hexdigest()[:24]
            await self._store.aput(self._at, f"{name}.{number:05}", entry)
        return reply

    def raw(self, path: tuple[str, ...], task: str) -> Mapping[str, Any] | None:  # noqa: ARG002 -- nothing is played back
        """Nothing: this run is the first."""
        return None


class Player:
    """Plays a recorded turn back.

    Args:
        entries: What was recorded.
        results: How tasks ended then, as JSON, by their path: teams, then the task.
        whole: Whether the turn came to its end; else it is played back as far as it came.
    """

    replaying = True

    def __init__(
        self, entries: Mapping[tuple[str, int], Any], results: Mapping[tuple[str, ...], Any], *, whole: bool
    ) -> None:
        self._whole = whole
        self._entries = entries
        self._results = results
        self._count: Counter[str] = Counter()
        self.diverged: str | None = None
        self.played = 0

    def begin(self, turn: str) -> None:
        """Nothing to do: the turn is given."""

    async def step(self, key: str, kind: str, request: Any, make: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ARG002 -- nothing is made anew
        """What came of it then.

        Raises:
            ReplayDiverged: It was not asked then, or something else was.
            Exception: What was raised then.
        """
        self._count[key] += 1
        number = self._count[key]
        entry = self._entries.get((key, number))
        if not self._whole and (entry is None or "cut" in entry):
            raise ReplayDiverged(f"{key}, step {number}: the recorded run came no further")
        if entry is None:
            self._diverge(f"{key}, step {number} ({kind}) was not recorded: the recorded run made no such call")
        if entry["kind"] != kind:
            self._diverge(f"{key}, step {number}: a {entry['kind']} was called then, a {kind} is now")
        asked = as_json(request)
        if asked != entry["request"]:
            self._diverge(f"{key}, step {number} ({kind}): {'; '.join(_differences(entry['request'], asked))}")
        self.played += kind == "model"
        if "error" in entry:
            error = _raised(entry["error"])
            setattr(error, USED, entry["error"].get("used") or {})
            raise error
        if "cut" in entry:
            cut = AttemptTimeout("it was cut off, as it was then")
            setattr(cut, USED, entry["cut"])
            raise cut
        return entry["reply"]

    def raw(self, path: tuple[str, ...], task: str) -> Mapping[str, Any] | None:
        """How a task ended then, as JSON."""
        return self._results.get((*path, task))

    def _diverge(self, how: str) -> NoReturn:
        self.diverged = self.diverged or how
        raise ReplayDiverged(how)


async def recorded(store: BaseStore, thread: str, turn: str) -> dict[tuple[str, int], Any]:
    """What was recorded of a turn, by key and number."""
    found: dict[tuple[str, int], Any] = {}
    while True:
        page = await store.asearch(_place(thread, turn), limit=_PAGE, offset=len(found))
        found.update({(item.value["key"], item.value["number"]): item.value for item in page})
        if len(page) < _PAGE:
            return found


def as_json(value: Any) -> Any:
    """A value as it is when it comes back from a store."""
    return json.loads(pydantic_core.to_json(value, fallback=str, inf_nan_mode="strings"))


def _differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Where two questions differ first, in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                yield from _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
                return
    if isinstance(before, list) and isinstance(after, list):
        items, others = cast("list[Any]", before), cast("list[Any]", after)
        for i, (one, other) in enumerate(zip(items, others, strict=False)):
            if one != other:
                yield from _differences(one, other, f"{where}[{i}]")
                return
        yield f"{where} has {len(others)} parts, and had {len(items)}"
        return
    was, now = json.dumps(before, ensure_ascii=False), json.dumps(after, ensure_ascii=False)
    at = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    start = max(0, at - 20)
    yield f"{where or 'it'} was …{was[start : at + 60]!r} and is …{now[start : at + 60]!r}"


_KINDS: tuple[type[Exception], ...] = (TimeoutError, ConnectionError)
"""Exceptions whose kind decides whether a call is tried again."""


def _told(error: Exception) -> dict[str, Any]:
    status = getattr(error, "status_code", None)
    return {
        "name": type(error).__name__,
        "kinds": [kind.__name__ for kind in type(error).__mro__[1:-2]],
        "text": strike_out(str(error)),
        "status": status if isinstance(status, int) else None,
        "used": getattr(error, USED, {}),
    }


def _raised(told: Mapping[str, Any]) -> Exception:
    """An exception that is tried again, and told, as the recorded one."""
    ours: Any = getattr(errors, told["name"], None)
    if isinstance(ours, type) and issubclass(ours, OrchestraError):
        return ours(told["text"])
    known = tuple(kind for kind in _KINDS if kind.__name__ in told["kinds"]) or (Exception,)
    bases: tuple[type, ...] = known
    for name in reversed(told["kinds"]):
        if name in ("APIConnectionError", "APITimeoutError", "TransportError"):
            bases = (type(name, bases, {}),)
    kind: Any = type(told["name"], bases, {"status_code": told["status"]})
    return kind(told["text"])
