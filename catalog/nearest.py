"""The implementation nearest to a paper that has none: worked out from the tags, so that it is never written down and never stale."""

from collections import defaultdict
from collections.abc import Sequence

from schema.records import Paper, ReferenceLink
from schema.terms import Relation, Term

WEIGHTS = {"when": 3.0, "speedup": 3.0, "how": 3.0, "granularity": 2.0, "fusion": 2.0, "networks": 1.0, "structured_family": 1.0}
"""How much an axis counts: first what a reader would look for first."""

Tags = dict[str, frozenset[Term]]


def with_nearest(papers: Sequence[Paper]) -> list[Paper]:
    """The papers, each that links to nothing now linked to its nearest implementation; where nothing is implemented, as they were."""
    modules = _modules(papers)
    if not modules:
        return list(papers)
    return [
        paper
        if paper.references
        else paper.model_copy(update={"references": (ReferenceLink(implementation=_nearest(paper, modules), relation=Relation.NEAREST),)})
        for paper in papers
    ]


def _modules(papers: Sequence[Paper]) -> dict[str, Tags]:
    """An implementation carries the tags of the papers that it implements."""
    found: dict[str, dict[str, set[Term]]] = defaultdict(lambda: {axis: set() for axis in WEIGHTS})
    for paper in papers:
        for link in paper.references:
            if link.relation is Relation.IMPLEMENTS:
                for axis in WEIGHTS:
                    found[link.implementation][axis] |= set(paper.tags(axis))
    return {module: {axis: frozenset(tags) for axis, tags in axes.items()} for module, axes in sorted(found.items())}


def _nearest(paper: Paper, modules: dict[str, Tags]) -> str:
    """The module that shares most: per axis the shared values over all values of the two. Ties: the fewest tags, then the name."""
    own = {axis: frozenset(paper.tags(axis)) for axis in WEIGHTS}

    def shared(module: str) -> float:
        tags = modules[module]
        return sum(
            weight * len(own[axis] & tags[axis]) / len(own[axis] | tags[axis]) for axis, weight in WEIGHTS.items() if own[axis] | tags[axis]
        )

    return min(modules, key=lambda module: (-shared(module), sum(map(len, modules[module].values())), module))
