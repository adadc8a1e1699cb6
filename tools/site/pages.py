"""Write every page that comes from the catalog as a Markdown file whose front matter holds it, the body ready as HTML.

Jinja escapes every text on its way into the HTML, and Markdown never sees it: so no title, name or venue is ever read as markup. The
theme's `main.html` puts the body where the content goes. (In the content, as a block of HTML, Markdown would parse it twice, at more than
the cost of everything else.)
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.progress import track

from catalog import Catalog
from schema.records import EVIDENCE_AXES, SETTINGS, Implementation, Paper
from schema.terms import AXES, AXIS, FACETS, Relation, Term
from tools.site import cite, formulas, lineage, plates, prose, reference, sizes, snippets, sources

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "site_src" / "templates"
RESULTS = ROOT / "build" / "tests.json"
SHOWN = 24
"""Papers that a taxonomy page lists before it points to the browser."""

FOLDERS = ("before_training", "during_training", "after_training", "run_time", "fusion")
"""The folders of the implementations, in the order of a network's life."""

UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
"""What JSON lets stand and YAML does not."""

GROUPS = {
    "What goes": ("speedup", "granularity", "structured_family"),
    "When and how": ("when", "how", "passes", "scope", "weights", "recovery"),
    "With what": ("data", "supervision", "fusion", "transfer"),
    "Shown on": ("networks", "applications"),
    "In the atlas": ("relation", "kind"),
}
"""The axes as the site groups them."""


@dataclass(frozen=True)
class Tests:
    """The last results of an implementation's tests: name -> (outcome, seconds)."""

    results: dict[str, tuple[str, float]] = field(hash=False)

    @property
    def passed(self) -> int:
        """How many passed."""
        return sum(outcome == "passed" for outcome, _ in self.results.values())


class Pages:
    """All pages of one catalog, written under one folder."""

    def __init__(
        self,
        atlas: Catalog,
        papers: list[Paper],
        folder: Path,
        records: Path = snippets.RECORDS,
        results: Path = RESULTS,
        repository: str = "",
    ) -> None:
        self._atlas = atlas
        self._papers = papers
        self._folder = folder
        self._records = records
        self._results = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
        self._sizes = atlas.sizes()
        self._by_key = {paper.key: paper for paper in papers}
        self._docstrings = prose.Docstrings(self._by_key, lambda key: f"../../papers/{key}/")
        self._environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters |= {"summary": prose.summary, "colored": sources.colored, "thousands": "{:,}".format}
        self._environment.globals |= {
            "AXES": AXES,
            "AXIS": AXIS,
            "FACETS": FACETS,
            "GROUPS": GROUPS,
            "Relation": Relation,
            "colab": partial(snippets.colab, repository),
            "implemented": plates.implemented,
            "paper_of": self._by_key.__getitem__,
            "source_of": self._source,
            "needs": sizes.needs,
            "facts": self._facts(),
        }

    def write(self) -> None:
        """Write every page."""
        self._write("index", "home", title="Pruning Atlas", context=self._home())
        self._write("browse", "browse", title="Browse", context=self._browse(), description="Every paper of the atlas, by facet and text.")
        self._write("compare", "compare", title="Compare", context={}, description="Two to four papers side by side.")
        self._write("lineage", "lineage", title="Lineage", context={}, description="What builds on what, from the first paper to the last.")
        for address, text in reference.pages(self._modules).items():
            self._put(address, text)
        self._taxonomy()
        self._implementations()
        for paper in track(self._papers, "Writing papers", transient=True, disable=len(self._papers) < 1000):
            self._write(
                f"papers/{paper.key}",
                "paper",
                title=paper.title,
                description=prose.plain(paper.summary),
                context=self._paper(paper),
                meta={"citation": cite.meta(paper), "linked_data": cite.linked_data(paper)},
            )

    def _write(
        self,
        address: str,
        template: str,
        *,
        title: str,
        context: dict[str, Any],
        description: str = "",
        kind: str = "",
        meta: dict[str, Any] | None = None,
    ) -> None:
        # where the page stands after MkDocs turned `a/b.md` into `a/b/index.html`, and `a/index.md` into `a/index.html`
        parts = address.split("/")
        depth = len(parts) - (parts[-1] == "index")
        body = self._environment.get_template(f"{template}.html").render(root="../" * depth or "./", **context)
        head = {
            "title": title,
            "kind": kind or template,
            **({"description": description} if description else {}),
            **(meta or {}),
            "body": body,
        }
        self._put(address, front_matter(head))

    def _put(self, address: str, text: str) -> None:
        path = self._folder / f"{address}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        return {
            "papers": len(self._papers),
            "implemented": sum(map(plates.implemented, self._papers)),
            "implementations": len(self._modules),
            "span": plates.span(self._papers),
            "venues": len({paper.venue.id for paper in self._papers if paper.venue}),
            "people": len({author for paper in self._papers for author in paper.authors}),
        }

    @cached_property
    def _modules(self) -> dict[str, Implementation]:
        return {implementation.module: implementation for implementation in self._atlas.implementations()}

    @cached_property
    def _extended_by(self) -> dict[str, list[str]]:
        extended = defaultdict(list)
        for paper in self._papers:
            for earlier in paper.builds_on:
                extended[earlier].append(paper.key)
        return extended

    def _source(self, module: str) -> sources.Source:
        return sources.read(module)

    def _home(self) -> dict[str, Any]:
        shown = next(
            (module for module in ("before_training.snip", *self._modules) if module in self._modules and self._shown(module)), None
        )
        return {
            "matrix": plates.matrix(self._papers, "when", "speedup"),
            "cube": plates.cube(self._papers, "how", "speedup", "when"),
            "shown": shown,
            "recording": self._shown(shown) if shown else None,
            "latest": [paper for paper in reversed(self._papers) if plates.implemented(paper)][:6],
        }

    def _shown(self, module: str) -> snippets.Recording | None:
        return snippets.recorded(module, records=self._records)

    def _browse(self) -> dict[str, Any]:
        return {"counts": self._atlas.facets(), "bars": plates.histogram(self._papers, plates.span(self._papers))}

    def _taxonomy(self) -> None:
        counts = self._atlas.facets()
        self._write(
            "taxonomy/index",
            "taxonomy",
            title="Taxonomy",
            description="Every axis and value that the atlas sorts papers by, with its definition.",
            context={
                "counts": counts,
                "matrix": plates.matrix(self._papers, "how", "when"),
                "trees": plates.trees(),
                "meeting": plates.occupied(plates.matrix(self._papers, "structured_family", "how")),
            },
        )
        carriers: dict[tuple[str, str], list[Paper]] = defaultdict(list)
        for paper in self._papers:
            for axis in FACETS:
                for tag in paper.tags(axis):
                    carriers[axis, str(tag)].append(paper)
        span = plates.span(self._papers)
        known = formulas.read()
        for axis, terms in FACETS.items():
            self._write(
                f"taxonomy/{axis}/index",
                "axis",
                title=AXIS[axis].title,
                description=AXIS[axis].definition,
                context={"axis": AXIS[axis], "terms": list(terms), "counts": counts[axis]},
            )
            for term in terms:
                self._write(
                    f"taxonomy/{axis}/{term}",
                    "value",
                    title=term.title,
                    description=term.definition,
                    context=self._value(axis, term, carriers[axis, str(term)], counts[axis], span)
                    | self._formula(known.get((axis, str(term)))),
                )

    def _value(self, axis: str, term: Term, papers: list[Paper], counts: dict[str, int], span: tuple[int, int] | None) -> dict[str, Any]:
        newest = papers[::-1]
        own = [paper for paper in newest if plates.implemented(paper)]
        listed = (own + [paper for paper in newest if not plates.implemented(paper)])[:SHOWN]
        modules = dict.fromkeys(link.implementation for paper in own for link in paper.references if link.relation is Relation.IMPLEMENTS)
        return {
            "axis": AXIS[axis],
            "term": term,
            "rule": prose.rule(term.rule, _address_from(axis)),
            "siblings": list(FACETS[axis]),
            "counts": counts,
            "papers": listed,
            "total": len(papers),
            "own": len(own),
            "modules": list(modules),
            "bars": plates.histogram(papers, span),
        }

    def _formula(self, formula: formulas.Formula | None) -> dict[str, Any]:
        """The formula, the paper that it is taken from, and the module that computes it."""
        paper = self._by_key.get(formula.source) if formula else None
        link = paper.reference(Relation.IMPLEMENTS) if paper else None
        return {"formula": formula, "taken_from": paper, "computed_by": link.implementation if link else None}

    def _implementations(self) -> None:
        folders: dict[str, list[str]] = {folder: [] for folder in FOLDERS}
        for module in self._modules:
            folders[module.partition(".")[0]].append(module)
        folders = {folder: modules for folder, modules in folders.items() if modules}
        self._write(
            "implementations/index",
            "implementations",
            title="Implementations",
            description="Minimal PyTorch reference implementations, each with tests that would catch a wrong sign.",
            context={"folders": folders, "links": self._modules, "results": {module: self._tests(module) for module in self._modules}},
        )
        for module, implementation in self._modules.items():
            source = sources.read(module)
            self._write(
                f"implementations/{module}",
                "implementation",
                title=f"{module}",
                description=source.title,
                context={
                    "source": source,
                    "docstring": self._docstrings.render,
                    "inline": self._docstrings.inline,
                    "traits": sources.traits(),
                    "groups": _by_relation(implementation),
                    **self._shown_with(module),
                },
            )

    def _paper(self, paper: Paper) -> dict[str, Any]:
        link = paper.reference()
        earlier = [self._by_key[key] for key in paper.builds_on]
        later = [self._by_key[key] for key in self._extended_by[paper.key]]
        return {
            "paper": paper,
            "link": link,
            "others": [other for other in paper.references if other is not link],
            "rows": [(group, rows) for group, axes in GROUPS.items() if (rows := list(_tag_rows(paper, axes)))],
            "earlier": earlier,
            "later": later,
            "drawing": lineage.around(paper, earlier, later),
            "bibtex": self._atlas.bibtex(paper.key),
            "apa": cite.apa(paper),
            "ris": cite.ris(paper),
            "official": cite.official(paper),
            "inline": self._docstrings.inline,
            **(self._shown_with(link.implementation) if link else {"snippet": None, "recording": None, "tests": None, "size": None}),
        }

    def _shown_with(self, module: str) -> dict[str, Any]:
        return {
            "snippet": snippets.snippet(module),
            "recording": self._shown(module),
            "tests": self._tests(module),
            "size": self._sizes.get(module),
        }

    def _tests(self, module: str) -> Tests | None:
        folder, _, name = module.partition(".")
        own = f"tests/reference_impls/{folder}/test_{name}.py::"
        found = {
            test.removeprefix(own).removeprefix("tests/reference_impls/"): (outcome, seconds)
            for test, (outcome, seconds) in self._results.items()
            if test.startswith(own) or (test.startswith("tests/reference_impls/test_contract.py::") and module in test)
        }
        return Tests(found) if found else None


def _tag_rows(paper: Paper, axes: Iterable[str]) -> Iterable[tuple[Any, tuple[Term, ...], Term | None]]:
    """(axis, the paper's values on it, where they were read)."""
    for axis in axes:
        if axis in AXES and (terms := paper.tags(axis)):
            evidence = "settings" if axis in SETTINGS else axis
            yield AXIS[axis], terms, paper.evidence.get(evidence) if evidence in EVIDENCE_AXES else None


def _address_from(axis: str) -> Callable[[str], str | None]:
    """From a value's page to the page of another value: of the same axis if it has one of that name, else of the first that has."""

    def address(value: str) -> str | None:
        holder = next((name for name in (axis, *FACETS) if value in list(FACETS[name])), None)
        return f"../../{holder}/{value}/" if holder else None

    return address


def _by_relation(implementation: Implementation) -> list[tuple[Relation, list[Any]]]:
    groups = defaultdict(list)
    for link in implementation.papers:
        groups[link.relation].append(link)
    return [(relation, groups[relation]) for relation in Relation if groups[relation]]


def front_matter(fields: dict[str, Any]) -> str:
    """A Markdown file that is nothing but these fields: JSON values, which are YAML too, in which no text can break out of its quotes."""
    lines = (f"{name}: {UNPRINTABLE.sub(_escaped, json.dumps(value, ensure_ascii=False))}" for name, value in fields.items())
    return "\n".join(["---", *lines, "---", ""])


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
