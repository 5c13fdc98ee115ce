"""Where the boxes of an acyclic graph go, and how its edges run: layered from top to bottom, after Sugiyama.

1. Rows: a box goes below all that it needs. A row is never wider than a page: what finds no place goes into the next.
2. Threads: an edge that passes rows gets a bend in each of them, with a place of its own, so that no edge runs through
   a box. Edges that share an end share their bends: a hundred siblings hang on one trunk.
3. Order: sweeps down and up put every node of a row near the middle of what it is linked to; the order with the fewest
   crossings wins.
4. Places: least squares keep linked nodes above each other, the order and the gaps fixed. Then bends are straightened.

The same graph always gets the same layout. Large ones get fewer sweeps, so that they take little more than linear time.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import NamedTuple

Point = tuple[float, float]

PAGE = 1100
"""The width in pixels that rows keep to, unless there are so many boxes that the picture would be a ribbon."""

_LANDSCAPE = 1.6
"""How much wider than high a picture of very many boxes becomes."""
_WIDE = 5
"""So many links on one side of a node are drawn as a bus: one level line that all of them share."""
_BOX_GAP, _BEND_GAP, _ROW_GAP = 26.0, 14.0, 46.0


class Box(NamedTuple):
    """A box to be placed.

    Attributes:
        width: Its width.
        height: Its height.
        port: Where its edges enter and leave, from its left side.
        exit: Where they leave, from its upper side: above the lower one where something else hangs beside the middle.
    """

    width: float
    height: float
    port: float
    exit: float


class Edge(NamedTuple):
    """A link from a box to one further down, by their indices; only edges of the same kind share bends."""

    start: int
    end: int
    kind: int = 0


class Layout(NamedTuple):
    """A finished layout.

    Attributes:
        width: The whole width.
        height: The whole height.
        places: The upper left corner of each box.
        routes: The points of each edge. Points of the same x or y are joined by a straight line, others by a curve that
            keeps to the heights between them, where no box is.
    """

    width: float
    height: float
    places: list[Point]
    routes: list[list[Point]]


def arrange(boxes: Sequence[Box], edges: Sequence[Edge]) -> Layout:
    """Lay out boxes and the edges between them, which must form no cycle."""
    return _arrange(tuple(boxes), tuple(edges))


@functools.lru_cache(maxsize=16)
def _arrange(boxes: tuple[Box, ...], edges: tuple[Edge, ...]) -> Layout:
    """The same, remembered: a run that is watched is drawn again and again, in new colours but in the same places."""
    if not boxes:
        return Layout(0.0, 0.0, [], [])
    mesh = _thread(boxes, edges, _rows(boxes, edges))
    _order(mesh)
    return _drawn(mesh, boxes, _places(mesh))


# Rows


def _rows(boxes: Sequence[Box], edges: Sequence[Edge]) -> list[int]:
    """Give every box the number of its row.

    Rows are filled from the top with what has all its needs above. Of more than fits, the boxes that were freed last
    come first: twenty chains side by side become blocks of whole chains, as text becomes lines.
    """
    before: list[set[int]] = [set() for _ in boxes]
    after: list[set[int]] = [set() for _ in boxes]
    for start, end, _ in edges:
        before[end].add(start)
        after[start].add(end)
    area = sum((box.width + _BOX_GAP) * (box.height + _ROW_GAP) for box in boxes)
    page = max(PAGE, math.sqrt(_LANDSCAPE * area))
    waiting = [len(needs) for needs in before]
    ready = [(0, index) for index, needs in enumerate(before) if not needs]
    row = [0] * len(boxes)
    used: list[float] = []
    while ready:
        wanted = sum(boxes[index].width + _BOX_GAP for _, index in ready)
        share = wanted / math.ceil(wanted / page)  # rows of about the same width instead of a short last one
        ready.sort()
        taken, width = 0, 0.0
        while taken < len(ready) and (not taken or width + boxes[ready[taken][1]].width / 2 <= share):
            width += boxes[ready[taken][1]].width + _BOX_GAP
            taken += 1
        placed, ready = [index for _, index in ready[:taken]], ready[taken:]
        for index in placed:
            row[index] = len(used)
            for dependant in after[index]:
                waiting[dependant] -= 1
                if not waiting[dependant]:
                    ready.append((-len(used) - 1, dependant))
        used.append(width)
    return _tightened(boxes, before, after, row, used)


def _tightened(
    boxes: Sequence[Box], before: Sequence[set[int]], after: Sequence[set[int]], row: list[int], used: list[float]
) -> list[int]:
    """Move boxes down to those that need them, where that shortens more edges than it lengthens, and there is room."""
    page = max(PAGE, *used)
    for index in sorted(range(len(boxes)), key=lambda i: -row[i]):
        if len(after[index]) <= len(before[index]):
            continue
        width = boxes[index].width + _BOX_GAP
        latest = min(row[dependant] for dependant in after[index]) - 1
        target = next((r for r in range(latest, row[index], -1) if used[r] + width <= page), row[index])
        used[row[index]] -= width
        used[target] += width
        row[index] = target
    number = {r: i for i, r in enumerate(sorted(set(row)))}  # a row may have become empty
    return [number[r] for r in row]


# Threads


@dataclass(slots=True)
class _Mesh:
    """Boxes and bends in rows, and their links from row to row. Nodes from `boxes` on are bends.

    Attributes:
        boxes: How many of the nodes are boxes.
        left: From each node's left side to its port.
        right: From its port to its right side.
        rows: The nodes of each row, from left to right.
        up: Each node's neighbours in the row above.
        down: Each node's neighbours in the row below.
        paths: The nodes along each edge.
    """

    boxes: int
    left: list[float]
    right: list[float]
    rows: list[list[int]]
    up: list[list[int]] = field(default_factory=list[list[int]])
    down: list[list[int]] = field(default_factory=list[list[int]])
    paths: list[list[int]] = field(default_factory=list[list[int]])

    def gap(self, a: int, b: int) -> float:
        """How far the ports of two neighbours in a row must be apart, at least."""
        bends = (a >= self.boxes) + (b >= self.boxes)
        return self.right[a] + self.left[b] + (_BOX_GAP if not bends else _BEND_GAP + 4 * (2 - bends))

    def hub(self, upper: int, lower: int) -> int | None:
        """Which end of a link makes it part of a wide fan; `None` for both ends of a trunk's piece, and few links."""
        if upper >= self.boxes and lower >= self.boxes:
            return None
        above, below = len(self.up[lower]), len(self.down[upper])
        if max(above, below) < _WIDE:
            return None
        return lower if above > below else upper


def _thread(boxes: Sequence[Box], edges: Sequence[Edge], row: Sequence[int]) -> _Mesh:
    """Put bends where edges pass rows.

    A long edge takes the bends of its start or of its end, whichever more long edges can share. It never changes from
    one to the other, so whoever follows the lines only finds links that are there.
    """
    left, right = [box.port for box in boxes], [box.width - box.port for box in boxes]
    mesh = _Mesh(len(boxes), left, right, [[] for _ in range(max(row) + 1)])
    long = [edge for edge in edges if row[edge.end] - row[edge.start] > 1]
    starts = Counter((edge.start, edge.kind) for edge in long)
    ends = Counter((edge.end, edge.kind) for edge in long)
    bends: dict[tuple[int, int, bool, int], int] = {}
    links: dict[tuple[int, int], None] = {}
    for start, end, kind in edges:
        outward = starts[start, kind] >= ends[end, kind]
        path = [start]
        for r in range(row[start] + 1, row[end]):
            key = (start if outward else end, kind, outward, r)
            path.append(bends.setdefault(key, len(boxes) + len(bends)))
        path.append(end)
        mesh.paths.append(path)
        links.update(dict.fromkeys(pairwise(path)))
    mesh.left += [0.0] * len(bends)
    mesh.right += [0.0] * len(bends)
    mesh.up, mesh.down = [[] for _ in mesh.left], [[] for _ in mesh.left]
    for upper, lower in links:
        mesh.down[upper].append(lower)
        mesh.up[lower].append(upper)
    # Trunks that lead away begin on the left, those that lead together on the right: around a wide fan nothing crosses.
    trunks = [(-1 if outward else 1, bend, r) for (_, _, outward, r), bend in bends.items()]
    for _, node, r in sorted([*trunks, *((0, index, r) for index, r in enumerate(row))]):
        mesh.rows[r].append(node)
    return mesh


# Order


def _order(mesh: _Mesh) -> None:
    """Sort the rows so that few links cross."""
    position = [0] * len(mesh.left)
    for node, i in ((node, i) for nodes in mesh.rows for i, node in enumerate(nodes)):
        position[node] = i
    best, fewest = [list(nodes) for nodes in mesh.rows], _crossings(mesh, position)
    for sweep in range(max(1, min(16, 8_000 // len(position))) if fewest else 0):
        downward = sweep % 2 == 0
        near = mesh.up if downward else mesh.down
        for nodes in mesh.rows if downward else reversed(mesh.rows):
            _sort(nodes, near, position)
        if (crossings := _crossings(mesh, position)) < fewest:
            best, fewest = [list(nodes) for nodes in mesh.rows], crossings
    mesh.rows = best


def _sort(nodes: list[int], near: Sequence[Sequence[int]], position: list[int]) -> None:
    """Sort a row by the middle of each node's neighbours in the row before; nodes without any keep their places."""
    middle: dict[int, float] = {}
    for node in nodes:
        around = near[node]
        middle[node] = sum([position[other] for other in around]) / len(around) if around else position[node]
    nodes.sort(key=middle.__getitem__)
    for i, node in enumerate(nodes):
        position[node] = i


def _crossings(mesh: _Mesh, position: Sequence[int]) -> int:
    """Count the pairs of links that cross: pairs whose upper and lower ends are in opposite order."""
    count = 0
    for nodes in mesh.rows:
        ends: list[int] = []
        for node in nodes:
            below = sorted([position[other] for other in mesh.down[node]])
            for end in below:
                count += len(ends) - bisect_right(ends, end)
            if below:
                ends += below
                ends.sort()  # two sorted runs: linear
    return count


# Places


def _places(mesh: _Mesh) -> list[float]:
    """Find the x of every node's port."""
    x = [0.0] * len(mesh.left)
    offsets: list[list[float]] = []
    for nodes in mesh.rows:
        offset = list(accumulate((mesh.gap(a, b) for a, b in pairwise(nodes)), initial=0.0))
        offsets.append(offset)
        boxes = [i for i, node in enumerate(nodes) if node < mesh.boxes] or [0]  # trunks beside them don't count
        ends = offset[boxes[0]] - mesh.left[nodes[boxes[0]]] + offset[boxes[-1]] + mesh.right[nodes[boxes[-1]]]
        for node, at in zip(nodes, offset, strict=True):
            x[node] = at - ends / 2
    pulls = _pulls(mesh)
    rows = list(zip(mesh.rows, offsets, strict=True))
    for turn in range(max(2, min(12, 8_000 // len(x)))):
        for nodes, offset in rows if turn % 2 else reversed(rows):
            _align(nodes, offset, pulls, x)
    _straighten(mesh, x)
    return x


def _pulls(mesh: _Mesh) -> list[list[tuple[int, float]]]:
    """By whom each node is pulled, and how hard.

    Trunks are stiff. A wide fan is drawn as a bus, so its many ends need not gather around the one: only the one is
    pulled, to their middle.
    """
    pulls: list[list[tuple[int, float]]] = [[] for _ in mesh.left]
    for upper, lowers in enumerate(mesh.down):
        for lower in lowers:
            bends = (upper >= mesh.boxes) + (lower >= mesh.boxes)
            pull = (1.0, 0.5, 16.0)[bends]
            wide = bends < 2 and mesh.hub(upper, lower) is not None
            if not wide or (not bends and len(lowers) >= _WIDE):
                pulls[upper].append((lower, pull))
            if not wide or (not bends and len(mesh.up[lower]) >= _WIDE):
                pulls[lower].append((upper, pull))
    return pulls


def _align(
    nodes: Sequence[int], offsets: Sequence[float], pulls: Sequence[Sequence[tuple[int, float]]], x: list[float]
) -> None:
    """Put a row's nodes as near to the middle of what pulls them as the gaps allow: least squares.

    With the gaps subtracted this is a regression on a rising sequence. Its solution pools neighbours that are in each
    other's way and puts each pool on its mean.
    """
    pools: list[tuple[float, float, int]] = []
    for node, offset in zip(nodes, offsets, strict=True):
        total, weight, count = 0.05 * x[node], 0.05, 1
        for other, pull in pulls[node]:
            total += pull * x[other]
            weight += pull
        value = total / weight - offset
        while pools and pools[-1][0] > value:
            other_value, other_weight, other_count = pools.pop()
            value = (value * weight + other_value * other_weight) / (weight + other_weight)
            weight += other_weight
            count += other_count
        pools.append((value, weight, count))
    values = [value for value, _, count in pools for _ in range(count)]
    for node, value, offset in zip(nodes, values, offsets, strict=True):
        x[node] = value + offset


def _straighten(mesh: _Mesh, x: list[float]) -> None:
    """Make each trunk, and each chain of boxes, vertical as far as its neighbours leave room."""
    right_of = {a: b for nodes in mesh.rows for a, b in pairwise(nodes)}
    left_of = {b: a for a, b in right_of.items()}

    def room(node: int) -> tuple[float, float]:
        a, b = left_of.get(node), right_of.get(node)
        lower = x[a] + mesh.gap(a, node) if a is not None else -math.inf
        return lower, (x[b] - mesh.gap(node, b) if b is not None else math.inf)

    following = {node: after for node in range(len(x)) if (after := _following(mesh, node)) is not None}
    for head in sorted(following.keys() - set(following.values())):
        piece, lower, upper = [head], *room(head)
        while piece:
            after = following.get(piece[-1])
            floor, ceiling = room(after) if after is not None else (math.inf, -math.inf)
            if after is not None and max(lower, floor) <= min(upper, ceiling):
                piece.append(after)
                lower, upper = max(lower, floor), min(upper, ceiling)
                continue
            middle = min(max(sum(x[node] for node in piece) / len(piece), lower), upper)
            for node in piece:
                x[node] = middle
            piece, lower, upper = ([after], *room(after)) if after is not None else ([], lower, upper)


def _following(mesh: _Mesh, node: int) -> int | None:
    """The node that should stand right below another: its trunk's next bend, or an only child of an only parent."""
    below = mesh.down[node]
    if node >= mesh.boxes and (bend := max(below)) >= mesh.boxes:
        return bend
    return below[0] if len(below) == 1 and len(mesh.up[below[0]]) == 1 else None


def _drawn(mesh: _Mesh, boxes: Sequence[Box], x: Sequence[float]) -> Layout:
    """Turn rows into heights, and paths into points."""
    leftmost = min(x[nodes[0]] - mesh.left[nodes[0]] for nodes in mesh.rows)
    x = [value - leftmost for value in x]
    width = max(x[nodes[-1]] + mesh.right[nodes[-1]] for nodes in mesh.rows)
    bands = [(0.0, 0.0)] * len(x)
    places: list[Point] = [(0.0, 0.0)] * len(boxes)
    buses: dict[tuple[int, int], float] = {}
    top = bottom = 0.0
    for nodes in mesh.rows:
        bottom = top + max(boxes[node].height if node < len(boxes) else 0.0 for node in nodes)
        for node in nodes:
            bands[node] = top, bottom
            if node < len(boxes):
                places[node] = x[node] - mesh.left[node], (top + bottom - boxes[node].height) / 2
        hubs = {(a, b): mesh.hub(a, b) for a in nodes for b in mesh.down[a]}
        # What leads together runs above what leads away, so that no line seems to go on where another begins.
        order = sorted({(hub in link[:1], hub) for link, hub in hubs.items() if hub is not None})
        level = {hub: bottom + 18 + 10 * i for i, (_, hub) in enumerate(order)}
        buses.update({link: level[hub] for link, hub in hubs.items() if hub is not None})
        reach = max((abs(x[a] - x[b]) for (a, b), hub in hubs.items() if hub is None), default=0.0)
        gap = _ROW_GAP + 10 * len(order) + min(54.0, reach / 14)  # flat curves are hard to follow
        top = bottom + (gap if hubs else _BOX_GAP)
    routes: list[list[Point]] = []
    for path in mesh.paths:
        points = [(x[path[0]], 0.0)]
        for link in pairwise(path):
            points.append((x[link[0]], bands[link[0]][1]))
            if link in buses:
                points += [(x[node], buses[link]) for node in link]
            points += [(x[link[1]], y) for y in bands[link[1]]]
        points[0] = points[0][0], places[path[0]][1] + boxes[path[0]].exit
        points[-1] = points[-1][0], places[path[-1]][1]
        turns = [b for a, b, c in zip(points, points[1:], points[2:], strict=False) if not a[0] == b[0] == c[0]]
        routes.append([points[0], *turns, points[-1]])
    return Layout(width, bottom, places, routes)
