"""How the versions of a channel's value are stored: mostly as the difference to an earlier one.

A value that grows by a little at every step would be stored whole at every step: a thousand steps that append 500 bytes
make 250 MB. Here a version is stored as what it adds to an earlier version, or, where it does not just add, as a zstd
frame with that version as its dictionary. To read it, the earlier one is needed first, and so on back to a full frame.
The chain stays short because every `_STRIDE`-th version is a delta of the one `_STRIDE` before it, and the others of
their predecessor: a full frame is needed only once in some ``_STRIDE * _STRIDE`` versions, and no read applies more
than ``2 * _STRIDE`` deltas. (Skip-deltas: https://svn.apache.org/repos/asf/subversion/trunk/notes/skip-deltas)

The writer keeps the newest values in memory, since a delta needs the value it is a delta of. What is not there any
more, or was never read by this process, begins with a full frame again.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from checkpoints.rows import Damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from checkpoints.dialects import Row
    from checkpoints.rows import Sealer
    from checkpoints.schema import Schema

_STRIDE = 16
_LEVEL = 3
"""zstd's default. At level 1 a dictionary of half a megabyte is searched too coarsely: deltas get 300 times larger."""

_SMALLEST = 256  # bytes; below, a frame costs more than it saves
_LARGEST = 64 << 20  # bytes; above, the search for matches takes too long and too much memory

_ADDED, _ADDED_PACKED = b"\x01", b"\x02"
"""What a frame begins with that adds to its base; zstd's own begin with 0x28."""

LARGEST_VALUE = 1 << 31
"""Bytes: more can't have been stored."""

_PACK_FROM = 512  # bytes of what is added

_OWN_VERSION = re.compile(r"\d{10}\.[0-9a-f]{12}")
"""Versions that `SQLAlchemySaver.get_next_version` made: no two values have the same one, whatever process made it."""

Pieces = tuple[bytes | memoryview, ...]
"""Bytes that are not joined yet."""


class Value(NamedTuple):
    """One version of a channel's value, as bytes."""

    thread_id: str
    checkpoint_ns: str
    channel: str
    version: str
    type: str
    content: bytes

    @property
    def channel_key(self) -> tuple[str, str, str]:
        """Which channel it is of."""
        return self[:3]


@dataclass(frozen=True, slots=True)
class _Known:
    """A version whose bytes are in memory."""

    version: str
    type: str
    content: bytes
    depth: int


@dataclass(frozen=True, slots=True)
class _Channel:
    """What is in memory of a channel: the newest version, and the last one on a stride.

    Attributes:
        newest: The one to make the next delta of.
        mark: The one to make a delta of when a stride is full.
        since: How many versions came after the mark.
    """

    newest: _Known
    mark: _Known
    since: int

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return len(self.newest.content) + (0 if self.mark is self.newest else len(self.mark.content)) + 500


class Frames:
    """Makes rows of values, and remembers the newest.

    Args:
        schema: Whose values.
        sealer: What seals the rows.
        memory: How many bytes of values to remember; the channels that were not written for longest are forgotten.
    """

    def __init__(self, schema: Schema, sealer: Sealer, memory: int) -> None:
        self._schema = schema
        self._sealer = sealer
        self._memory = memory
        self._used = 0
        self._channels: OrderedDict[tuple[str, str, str], _Channel] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self) -> Framing:
        """Make rows for a transaction; remember their values only when it is committed."""
        return Framing(self)

    def row(self, value: Value, base: _Known | None, frame: bytes, depth: int) -> Row:
        """The row of a value."""
        thread_id, checkpoint_ns, channel, version, kind, content = value
        base_version = None if base is None else base.version
        columns = (thread_id, checkpoint_ns, channel, version, base_version, depth, len(content))
        proof, stored = self._sealer.seal("values", columns, kind, frame)
        key = self._schema.dialect.key
        stored_base = None if base_version is None else key(base_version)
        keys = (key(thread_id), key(checkpoint_ns), key(channel), key(version), stored_base)
        return (*keys, depth, len(content), *proof, stored)

    def known(self, channel: tuple[str, str, str]) -> _Channel | None:
        """What is in memory of a channel."""
        with self._lock:
            return self._channels.get(channel)

    def remember(self, channels: Iterable[tuple[tuple[str, str, str], _Channel]]) -> None:
        """Keep these, and forget the oldest while there is too much."""
        with self._lock:
            for key, channel in channels:
                if (before := self._channels.pop(key, None)) is not None:
                    self._used -= before.size
                self._channels[key] = channel
                self._used += channel.size
            while self._used > self._memory and self._channels:
                self._used -= self._channels.popitem(last=False)[1].size

    def met(self, value: Value, depth: int) -> None:
        """A newest version was read: the next one can be a delta of it."""
        worth = len(value.content) >= _SMALLEST and _OWN_VERSION.fullmatch(value.version) is not None
        if worth and self.known(value.channel_key) is None:
            known = _Known(value.version, value.type, value.content, depth)
            self.remember([(value.channel_key, _Channel(known, known, 0))])

    def recall(self, keys: Iterable[tuple[str, str, str, str]]) -> dict[tuple[str, str, str, str], tuple[Value, int]]:
        """Of these versions, those in memory, each with its depth: what was committed under a version never changes."""
        found: dict[tuple[str, str, str, str], tuple[Value, int]] = {}
        with self._lock:
            for key in keys:
                channel = self._channels.get(key[:3])
                if channel is not None and channel.newest.version == key[3]:
                    newest = channel.newest
                    found[key] = (Value(*key, newest.type, newest.content), newest.depth)
        return found

    def forget(self, threads: Iterable[str]) -> None:
        """These threads' values may have been deleted."""
        gone = set(threads)
        with self._lock:
            for key in [key for key in self._channels if key[0] in gone]:
                self._used -= self._channels.pop(key).size


class Framing:
    """The values of one transaction."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._new: dict[tuple[str, str, str], _Channel] = {}

    def rows(self, values: Sequence[Value]) -> list[Row]:
        """The rows of values, in order."""
        return [self._row(value) for value in values]

    def commit(self) -> None:
        """The transaction is committed: its values are there to make deltas of."""
        if self._new:
            self._frames.remember(self._new.items())

    def _row(self, value: Value) -> Row:
        content = value.content
        if len(content) < _SMALLEST or _OWN_VERSION.fullmatch(value.version) is None:
            return self._frames.row(value, None, content, 0)
        key = value.channel_key
        before = self._new.get(key) or self._frames.known(key)
        full_stride = before is not None and before.since + 1 >= _STRIDE
        base = None if before is None else before.mark if full_stride else before.newest
        frame = None if base is None else _delta(base, value)
        if base is None or frame is None:
            base, frame, depth = None, _full(content), 0
        else:
            depth = base.depth + 1
        known = _Known(value.version, value.type, content, depth)
        if base is None or before is None or full_stride:
            self._new[key] = _Channel(known, known, 0)
        else:
            self._new[key] = _Channel(known, before.mark, before.since + 1)
        return self._frames.row(value, base, frame, depth)


def _full(content: bytes) -> bytes:
    if len(content) > _LARGEST:
        return content
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
    return packed if len(packed) < len(content) else content


def _delta(base: _Known, value: Value) -> bytes | None:
    """The value as a delta; None if that does not pay."""
    # A base is always older by its name too: deleting the newest first never leaves a delta without it.
    if base.depth >= 2 * _STRIDE or base.version >= value.version:
        return None
    content = value.content
    frame = _added(base.content, content) or _difference(base.content, content)
    return frame if frame is not None and len(frame) * 2 < len(content) else None


def _added(base: bytes, content: bytes) -> bytes | None:
    """What is added at the end of a list, a mapping or a text: found by comparing memory, without a search.

    In msgpack these begin with a header that tells how many items follow; after it, the old bytes stand unchanged.
    """
    old, new = _header(base), _header(content)
    if not content.startswith(base[old:], new):
        return None
    added = content[new + len(base) - old :]
    kind = _ADDED
    if len(added) >= _PACK_FROM:
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(added)
        if len(packed) < len(added):
            kind, added = _ADDED_PACKED, packed
    return b"".join((kind, bytes((new,)), content[:new], added))


def _header(content: bytes | memoryview) -> int:
    """How many bytes of a msgpack value tell its type and length (https://github.com/msgpack/msgpack, spec.md)."""
    match content[0] if content else 0:
        case 0xC4 | 0xD9:  # bin 8, str 8
            return 2
        case 0xC5 | 0xDA | 0xDC | 0xDE:  # bin 16, str 16, array 16, map 16
            return 3
        case 0xC6 | 0xDB | 0xDD | 0xDF:  # bin 32, str 32, array 32, map 32
            return 5
        case _:
            return 1


def _difference(base: bytes, content: bytes) -> bytes | None:
    """The value as a zstd frame whose dictionary is the base."""
    reach = len(base) + len(content)
    if reach > _LARGEST:
        return None
    parameters = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=max(10, reach.bit_length()))
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(content)


class Unframer:
    """Turns rows of values back into bytes.

    Args:
        sealer: What opens the rows.
        rows: Rows of the values table, with all that they are deltas of, in any order.
        known: Values that need none.
    """

    def __init__(
        self,
        sealer: Sealer,
        rows: Iterable[Any],
        known: Mapping[tuple[str, str, str, str], tuple[Value, int]] | None = None,
    ) -> None:
        self._sealer = sealer
        self._known = known or {}
        self._rows = {(row.thread_id, row.checkpoint_ns, row.channel, row.version): row for row in rows}
        self._pieces: dict[tuple[str, str, str, str], Pieces] = {}

    def value(self, thread_id: str, checkpoint_ns: str, channel: str, version: str) -> tuple[Value, int]:
        """A version of a channel's value, and its depth.

        Raises:
            Damaged: It can't be had.
        """
        if (known := self._known.get((thread_id, checkpoint_ns, channel, version))) is not None:
            return known
        chain: list[Any] = []
        wanted: str | None = version
        while wanted is not None and (thread_id, checkpoint_ns, channel, wanted) not in self._pieces:
            row = self._rows.get((thread_id, checkpoint_ns, channel, wanted))
            if row is None:
                which = "its value" if not chain else f"version {wanted}, which its value is a delta of,"
                raise Damaged(f"{which} is not stored any more")
            if len(chain) > len(self._rows):
                raise Damaged("its value is a delta of itself")
            chain.append(row)
            wanted = row.base
        pieces = None if wanted is None else self._pieces[thread_id, checkpoint_ns, channel, wanted]
        for row in reversed(chain):
            pieces = self._unpack(row, pieces)
            self._pieces[thread_id, checkpoint_ns, channel, row.version] = pieces
        row = self._rows[thread_id, checkpoint_ns, channel, version]
        content = b"".join(self._pieces[thread_id, checkpoint_ns, channel, version])
        if len(content) != row.size:
            raise Damaged(f"its frame gives {len(content)} bytes, and its row says {row.size}")
        return Value(thread_id, checkpoint_ns, channel, version, row.type, content), row.depth

    def _unpack(self, row: Any, base: Pieces | None) -> Pieces:
        columns = (row.thread_id, row.checkpoint_ns, row.channel, row.version, row.base, row.depth, row.size)
        frame = self._sealer.open("values", columns, row, row.value)
        if base is None and len(frame) == row.size:
            return (frame,)
        try:
            return _undo(frame, base, row.size)
        except zstandard.ZstdError as error:
            raise Damaged(f"its frame can't be unpacked ({error})") from error


def _undo(frame: bytes, base: Pieces | None, size: int) -> Pieces:
    if base is None or frame[:1] not in {_ADDED, _ADDED_PACKED}:
        dictionary = None
        if base is not None:
            dictionary = zstandard.ZstdCompressionDict(b"".join(base), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return (_decompress(frame, size, dictionary),)
    start = 2 + frame[1] if len(frame) > 1 else 0
    if not 2 < start <= len(frame):
        raise Damaged("its frame is cut off")
    added = frame[start:]
    if frame[:1] == _ADDED_PACKED:
        added = _decompress(added, size, None)
    # Not joined before the last of the chain: each of a long value's deltas would copy all of it.
    first, *rest = base
    return (frame[2:start], memoryview(first)[_header(first) :], *rest, added)


def _decompress(frame: bytes, limit: int, dictionary: zstandard.ZstdCompressionDict | None) -> bytes:
    if not 0 <= zstandard.get_frame_parameters(frame).content_size <= min(limit, LARGEST_VALUE):
        raise Damaged("its frame has another size than its row says")
    return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=2 * _LARGEST).decompress(frame)
