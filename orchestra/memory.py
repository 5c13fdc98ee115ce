"""What is remembered of a user across threads and processes: preferences and facts, in LangGraph's store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal
from urllib.parse import unquote

from langgraph.store.base import BaseStore, PutOp
from pydantic import ValidationError

from orchestra.assignments import MOST_MEMOS, Memo
from orchestra.errors import RequestError

_ROOT = "orchestra_memory"

_LONGEST = 1000
"""Bytes of a user's name."""

_PAGE = 1000


class Memory:
    """The memory of one user: `await memory.all()`, `remember`, `forget`.

    Args:
        store: Where it is kept.
        user: Whose it is, by any name.

    Raises:
        RequestError: The user's name is empty or too long.
    """

    def __init__(self, store: BaseStore, user: str) -> None:
        if not user or len(_label(user).encode(errors="replace")) > _LONGEST:
            raise RequestError(f"Say whose memory: a user's name is not empty, and has {_LONGEST} bytes at most.")
        self._store = store
        self._place = (_ROOT, _label(user))
        self.user = user

    async def all(self) -> list[Memo]:
        """Everything that is remembered, by key."""
        found = await self._store.asearch(self._place, limit=2 * MOST_MEMOS)  # two writers at once may pass the limit
        memos = [
            Memo.model_validate({**item.value, "key": item.key, "at": item.updated_at})
            for item in found
            if item.namespace == self._place
        ]
        return sorted(memos, key=lambda memo: memo.key)

    async def remember(self, key: str, value: Any, *, kind: Literal["preference", "fact"] = "preference") -> None:
        """Remember something; what was remembered under the key before is replaced.

        Args:
            key: What to find it by.
            value: What JSON can hold.
            kind: A wish that agents should follow, or anything else that is true of the user.

        Raises:
            RequestError: It can't be stored, or there are a thousand already.
        """
        try:
            memo = Memo(key=key, value=value, kind=kind)
        except ValidationError as error:
            raise RequestError(f"{key!r} can't be remembered: {error.errors(include_url=False)[0]['msg']}") from error
        known = await self.all()
        if len(known) >= MOST_MEMOS and key not in {one.key for one in known}:
            raise RequestError(f"{MOST_MEMOS} things are remembered of {self.user!r} already; forget some.")
        await self.write([memo])

    async def forget(self, key: str | None = None) -> int:
        """Delete what is remembered under a key, or everything; return how much that was."""
        doomed = [memo for memo in await self.all() if key is None or memo.key == key]
        await self._store.abatch([PutOp(self._place, memo.key, None) for memo in doomed])
        return len(doomed)

    async def write(self, memos: Iterable[Memo]) -> None:
        """Write memos in one go; of several with one key the last counts, and one without a value is forgotten."""
        newest = {memo.key: memo for memo in memos}
        await self._store.abatch(
            [
                PutOp(
                    self._place,
                    memo.key,
                    None if memo.value is None else memo.model_dump(mode="json", include={"value", "kind", "by"}),
                )
                for memo in newest.values()
            ]
        )


async def users(store: BaseStore) -> Sequence[str]:
    """Everyone of whom something is remembered."""
    found: list[str] = []
    while page := await store.alist_namespaces(prefix=(_ROOT,), limit=_PAGE, offset=len(found)):
        found += [unquote(place[1]) for place in page]
    return sorted(found)


def _label(user: str) -> str:
    """A user's name as a part of a namespace, which must not hold a full stop."""
    return user.replace("%", "%25").replace(".", "%2E")
