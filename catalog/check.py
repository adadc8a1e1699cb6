"""What is wrong between the files of the catalog, and between the catalog and the implementations; what is in doubt; what is covered."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from catalog.implementations import Source, implementations
from catalog.problem import InvalidCatalog, Problem, hint, not_allowed
from catalog.read import ROOT, EntrySource, Progress, Reading, RecordSource, read
from schema.records import EVIDENCE_AXES, Entry, Paper, Person, fold, normalized_title
from schema.terms import FACETS, Evidence, How, Relation, When

FOLDER_OF = {
    When.BEFORE_TRAINING: "before_training",
    When.DURING_TRAINING: "during_training",
    When.EARLY_TRAINING: "during_training",
    When.AFTER_TRAINING: "after_training",
    When.RUN_TIME: "run_time",
}
"""The folder of an implementation, by the `when` of the paper that it implements; `fusion` is for papers with a fusion tag."""


def checked(root: Path = ROOT, progress: Progress | None = None) -> Reading:
    """The catalog under a repository's root, if nothing is wrong with it.

    Raises:
        InvalidCatalog: something is; holds every problem.
    """
    reading = read(root, progress)
    problems = check(reading, root)
    if problems:
        raise InvalidCatalog(problems)
    return reading


def check(reading: Reading, root: Path = ROOT) -> list[Problem]:
    """Every problem of the catalog, sorted; those of reading included."""
    modules = implementations(root)
    entries = [source for source in reading.entries.values() if source.entry]
    problems = [
        *reading.problems,
        *_pairs(reading),
        *(problem for source in reading.entries.values() for problem in _key(source, reading)),
        *_repeated("DOI", entries, "doi", lambda entry: entry.doi and entry.doi.lower()),
        *_repeated("arXiv id", entries, "eprint", lambda entry: entry.arxiv),
        *_repeated("OpenReview id", entries, "x-openreview", lambda entry: entry.openreview),
        *_repeated("title", entries, "title", lambda entry: normalized_title(entry.title)),
        *(problem for source in reading.records.values() for problem in _record(source, reading, modules)),
        *_cycles(reading),
        *_sizes(reading, modules),
        *(problem for module in modules.values() for problem in _module(module, reading, root)),
    ]
    return sorted(set(problems))


def _pairs(reading: Reading) -> Iterator[Problem]:
    for key, source in reading.entries.items():
        if key not in reading.records:
            yield Problem(source.path, source.raw.line, f"`{key}` has no record; allowed: a file catalog/papers/{key}.md")
    for key, record in reading.records.items():
        path = record.located.path
        if key not in reading.entries:
            alike = hint(key, reading.entries.keys() - reading.records.keys())
            yield Problem(path, 1, f"`{key}` has no BibTeX entry{alike}; allowed: an entry in catalog/bibliography/<year>.bib")
        inside = record.located.values.get("key")
        if isinstance(inside, str) and inside != key:
            yield Problem(path, record.located.line(("key",)), f"key `{inside}` in a file called {key}.md; allowed: {key}")


def _key(source: EntrySource, reading: Reading) -> Iterator[Problem]:
    entry = source.entry
    if entry is None:
        return
    year = str(entry.year or "undated")
    record = reading.records.get(entry.key)
    unknown = bool(record and record.record and record.record.authors_unknown)
    if Path(source.path).stem != year:
        yield Problem(source.path, source.line("year"), f"an entry of {year} in {Path(source.path).name}; allowed: {year}.bib")
    if entry.authors and unknown and record:
        line = record.located.line(("authors_unknown",))
        yield Problem(record.located.path, line, "authors_unknown, but the entry has authors; allowed: one of the two")
    if not entry.authors and record and record.record and not unknown:
        yield Problem(source.path, source.raw.line, "no author; allowed: author, or authors_unknown: true in the record")
    families = _families(entry.authors[0]) if entry.authors else {"anon"}
    words = set(re.findall(r"[a-z0-9]+", fold(entry.title)))
    parts = re.fullmatch(r"([a-z]+?)([0-9]{4}|undated)([a-z0-9]+)", entry.key)
    assert parts  # the pattern of a key
    family, of_year, word = parts.groups()
    if family not in families or of_year != year or not ({word, word[:-1]} & words):
        form = f"{min(families, key=len)}{year}<a word of the title>, with a letter behind it if two papers clash"
        yield Problem(source.path, source.raw.line, f"key `{entry.key}` does not fit the entry; allowed: {form}")


def _families(person: Person) -> set[str]:
    """The family name as a key writes it, with and without its particle."""
    words = person.family.split()
    bare = [word for position, word in enumerate(words) if not word[0].islower() or position == len(words) - 1]
    return {re.sub(r"[^a-z]", "", fold("".join(part))) for part in (words, bare)}


def _repeated(what: str, entries: list[EntrySource], name: str, value: Callable[[Entry], str | None]) -> Iterator[Problem]:
    first: dict[str, EntrySource] = {}
    for source in entries:
        assert source.entry
        if (found := value(source.entry)) is None:
            continue
        other = first.setdefault(found, source)
        if other is not source:
            message = (
                f"the {what} of `{source.raw.key}` is also that of `{other.raw.key}` ({other.path}:{other.line(name)}); allowed: one paper"
            )
            yield Problem(source.path, source.line(name), message)


def _record(source: RecordSource, reading: Reading, modules: dict[str, Source]) -> Iterator[Problem]:
    record, path, line = source.record, source.located.path, source.located.line
    if record is None:
        return
    needed = record.evidence_needed()
    for axis in EVIDENCE_AXES:
        if axis in needed and axis not in record.evidence:
            message = f"no evidence for `{axis}`, which is not empty; allowed: {axis}: {' | '.join(Evidence)}"
            yield Problem(path, line(("evidence",)), message)
    for axis in record.evidence:
        place = line(("evidence", axis))
        if axis not in EVIDENCE_AXES:
            yield Problem(path, place, not_allowed("axis of evidence", axis, EVIDENCE_AXES))
        elif axis not in needed:
            yield Problem(path, place, f"evidence for `{axis}`, which is empty; allowed: {', '.join(sorted(needed))}")
    for position, key in enumerate(record.builds_on):
        if key not in reading.entries and key not in reading.records:
            alike = hint(key, reading.entries)
            yield Problem(path, line(("builds_on", position)), f"builds_on: unknown key `{key}`{alike}; allowed: keys of the catalog")
    seen = set()
    for position, link in enumerate(record.references):
        place = line(("references", position, "implementation"))
        if link.implementation in seen:
            yield Problem(path, place, f"a second link to {link.implementation}; allowed: one link per implementation")
        seen.add(link.implementation)
        if link.relation is Relation.NEAREST:
            message = "`nearest` is worked out from the tags; allowed: implements, variant, subject, or no reference"
            yield Problem(path, line(("references", position, "relation")), message)
        module = modules.get(link.implementation)
        if module is None:
            alike = hint(link.implementation, modules, likeness=0.8)
            where = f"reference_impls/{link.implementation.replace('.', '/')}.py"
            yield Problem(path, place, f"there is no implementation `{link.implementation}`{alike}; allowed: a module that exists, {where}")
            continue
        if link.relation == Relation.IMPLEMENTS:
            if module.entry_points is not None and record.key not in module.keys:
                yield Problem(
                    module.path, 1, f"the docstring does not name `{record.key}`, which it implements ({path}); allowed: name its key"
                )
            folder = link.implementation.partition(".")[0]
            fits = {FOLDER_OF[when] for when in record.taxonomy.when} | ({"fusion"} if record.taxonomy.fusion else set())
            if folder not in fits:
                message = (
                    f"implemented in {folder}/, which its `when` and `fusion` do not say; allowed: {', '.join(sorted(fits)) or 'none yet'}"
                )
                yield Problem(path, place, message)


def _cycles(reading: Reading) -> Iterator[Problem]:
    """One problem per link of builds_on that closes a cycle, at the smallest key in it."""
    earlier = {key: source.record.builds_on for key, source in reading.records.items() if source.record}
    done: set[str] = set()
    for start in sorted(earlier):
        path: list[str] = []
        stack = [iter([start])]
        while stack:
            key = next(stack[-1], None)
            if key is None:
                stack.pop()
                if path:
                    done.add(path.pop())
            elif key in path:
                cycle = path[path.index(key) :]
                first = cycle.index(min(cycle))
                cycle = cycle[first:] + cycle[:first]
                source = reading.records[cycle[0]].located
                message = f"builds_on goes round: {' -> '.join([*cycle, cycle[0]])}; allowed: no cycle"
                yield Problem(source.path, source.line(("builds_on",)), message)
            elif key not in done:
                path.append(key)
                stack.append(iter(earlier.get(key, ())))


def _sizes(reading: Reading, modules: dict[str, Source]) -> Iterator[Problem]:
    for name, source in reading.sizes.items():
        if name not in modules:
            alike = hint(name, modules, likeness=0.8)
            yield Problem(source.path, source.line, f"there is no implementation `{name}`{alike}; allowed: a module that exists")


def _module(module: Source, reading: Reading, root: Path) -> Iterator[Problem]:
    if module.entry_points is None:
        yield Problem(module.path, 1, "this is no Python; allowed: Python")
        return
    if len(module.entry_points) != 1:
        found = ", ".join(module.entry_points) or "none"
        yield Problem(module.path, 1, f"public entry functions: {found}; allowed: exactly one of masks, prune, callbacks, wrap")
    linking = {key for key, source in reading.records.items() if module.module in _linked(source)}
    for key, line in module.keys.items():
        if key not in reading.records:
            alike = hint(key, reading.records)
            yield Problem(module.path, line, f"the docstring names `{key}`, which is no paper{alike}; allowed: keys of the catalog")
        elif key not in linking:
            link = f"{{implementation: {module.module}, relation: ...}}"
            yield Problem(
                module.path, line, f"the docstring names `{key}`, whose record has no link back; allowed: {link} in its references"
            )
    if not linking:
        yield Problem(module.path, 1, "no paper links to this implementation; allowed: at least one")
    for path, what in ((module.tests, "tests"), (module.snippet, "runnable snippet")):
        if not (root / path).is_file():
            yield Problem(module.path, 1, f"no {what}; allowed: a file {path}")


def _linked(source: RecordSource) -> set[str]:
    """The modules that a record links to, read from its text, so that another problem of the record does not hide them."""
    links = source.located.values.get("references")
    found = (link.get("implementation") for link in links if isinstance(link, dict)) if isinstance(links, list) else ()
    return {module for module in found if isinstance(module, str)}


def doubts(papers: Iterable[Paper]) -> dict[str, list[str]]:
    """What is not certain -> the keys of the papers."""
    papers = list(papers)
    questions: dict[str, Callable[[Paper], bool]] = {
        "no author list found": lambda paper: paper.authors_unknown,
        "no year": lambda paper: paper.year is None,
        "no venue": lambda paper: paper.venue is None,
        "no identifier (DOI, arXiv, OpenReview) and no address": lambda paper: (
            not (paper.doi or paper.arxiv or paper.openreview or paper.url)
        ),
        "a tag read from the title alone": lambda paper: Evidence.TITLE in paper.evidence.values(),
        "how: other": lambda paper: How.OTHER in paper.taxonomy.how,
    }
    return {question: [paper.key for paper in papers if holds(paper)] for question, holds in questions.items()}


def coverage(papers: Iterable[Paper]) -> dict[str, dict[str, dict[str, int]]]:
    """Axis -> value -> relation -> how many papers; a paper counts once, by its closest relation. `all` stands for all values."""
    counts = {axis: {str(value): Counter[str]() for value in values} for axis, values in FACETS.items() if axis != "relation"}
    total = Counter[str]()
    for paper in papers:
        link = paper.reference()
        relation = str(link.relation) if link else "none"
        total[relation] += 1
        for axis, values in counts.items():
            for value in paper.tags(axis):
                values[str(value)][relation] += 1
    relations = [str(relation) for relation in Relation]
    tables = {"all": {"papers": total}} | counts
    return {axis: {value: {r: found[r] for r in relations} for value, found in values.items()} for axis, values in tables.items()}
