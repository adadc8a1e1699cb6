"""Where papers stand in a drawing of what builds on what."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from schema.records import Paper

WIDTH, ROW, BOX = 720.0, 44.0, 200.0
MOST = 6
"""Papers of a generation that the small drawing shows."""


@dataclass(frozen=True)
class Node:
    """A paper in the drawing; (x, y) is the left end of its box's middle line."""

    paper: Paper
    x: float
    y: float


@dataclass(frozen=True)
class Drawing:
    """A paper between those that it builds on and those that build on it.

    Attributes:
        nodes: the paper itself first.
        edges: curves from an earlier paper to a later one, as SVG paths.
        height: of the drawing; its width is `WIDTH`.
        hidden: how many papers found no room.
    """

    nodes: tuple[Node, ...]
    edges: tuple[str, ...]
    height: float
    hidden: int


def around(paper: Paper, earlier: Sequence[Paper], later: Sequence[Paper]) -> Drawing | None:
    """The paper and its neighbours; None if it has none."""
    if not earlier and not later:
        return None
    columns = [list(earlier[:MOST]), [paper], list(later[:MOST])]
    if not earlier:
        columns.pop(0)
    if not later:
        columns.pop()
    height = ROW * max(map(len, columns))
    gap = (WIDTH - BOX * len(columns)) / 2
    nodes = {}
    for at, column in enumerate(columns):
        x = at * (BOX + gap) if len(columns) == 3 else at * (BOX + 2 * gap) if len(columns) == 2 else 0
        for row, member in enumerate(column):
            nodes[member.key] = Node(member, min(x, WIDTH - BOX), height * (row + 0.5) / len(column))
    self = nodes[paper.key]
    edges = [curve(nodes[other.key].x + BOX, nodes[other.key].y, self.x, self.y) for other in earlier[:MOST]]
    edges += [curve(self.x + BOX, self.y, nodes[other.key].x, nodes[other.key].y) for other in later[:MOST]]
    hidden = max(0, len(earlier) - MOST) + max(0, len(later) - MOST)
    return Drawing((self, *(node for node in nodes.values() if node is not self)), tuple(edges), height, hidden)


def curve(x: float, y: float, to_x: float, to_y: float) -> str:
    """A path that leaves and arrives level."""
    middle = (x + to_x) / 2
    return f"M{x:g} {y:g}C{middle:g} {y:g} {middle:g} {to_y:g} {to_x:g} {to_y:g}"


def field(papers: Sequence[Paper]) -> tuple[list[list[int]], list[list[int]]]:
    """The whole field: papers that build on another or are built on, in columns of years.

    Returns:
        nodes: [number of the paper, year, row], rows counted from 0 in each year so that lines stay short.
        edges: [earlier, later], as positions in `nodes`.
    """
    number = {paper.key: at for at, paper in enumerate(papers)}
    pairs = [(number[earlier], at) for at, paper in enumerate(papers) for earlier in paper.builds_on if earlier in number]
    degree: dict[int, int] = defaultdict(int)
    for earlier, later in pairs:
        degree[earlier] += 1
        degree[later] += 1
    years: dict[int, list[int]] = defaultdict(list)
    for at in sorted(degree):
        if (year := papers[at].year) is not None:
            years[year].append(at)
    rows = _rows(years, pairs, degree)
    nodes = [[at, year, rows[at]] for year, members in sorted(years.items()) for at in members]
    position = {node[0]: at for at, node in enumerate(nodes)}
    return nodes, [[position[a], position[b]] for a, b in pairs if a in position and b in position]


def _rows(years: Mapping[int, Sequence[int]], pairs: Sequence[tuple[int, int]], degree: Mapping[int, int]) -> dict[int, int]:
    """A row for each paper: year after year, each as near as possible to the mean of what it builds on; the most connected choose first."""
    parents: dict[int, list[int]] = defaultdict(list)
    for earlier, later in pairs:
        parents[later].append(earlier)
    rows: dict[int, int] = {}
    for _, members in sorted(years.items()):
        taken: set[int] = set()
        for at in sorted(members, key=lambda member: (-degree[member], member)):
            known = [rows[parent] for parent in parents[at] if parent in rows]
            wanted = round(sum(known) / len(known)) if known else 0
            rows[at] = next(row for step in count() for row in (wanted + step, wanted - step) if row not in taken)
            taken.add(rows[at])
    first = min(rows.values(), default=0)
    return {at: row - first for at, row in rows.items()}
