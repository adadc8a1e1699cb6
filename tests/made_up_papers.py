"""Strategies for random papers: valid, and as odd as validity allows."""

from hypothesis import strategies as st

from schema.records import EVIDENCE_AXES, SETTINGS, Measurement, Paper, Person, ReferenceLink, Settings, Taxonomy, Venue
from schema.terms import AXES, Evidence, How, Kind, Relation

VENUES = [
    Venue(id="orchard", name="Conference on Orchards", abbreviation="ORCH", kind="conference", series="ORCH"),
    Venue(id="botany", name="Journal of Botany & Ëcology", abbreviation="J. Bot.", kind="journal"),
]
MODULES = ["before_training.shears", "after_training.saw", "run_time.wind"]
words = st.text(st.sampled_from("abcABéÜß1"), min_size=1, max_size=4)
texts = st.lists(words, min_size=1, max_size=5).flatmap(
    lambda parts: st.lists(
        st.sampled_from([" ", "-", ": ", " & ", "_", " 50% ", '"', "'", " #", " {", "} ", " \\", " ^", "~", " $"]), min_size=5
    ).map(lambda gaps: " ".join("".join(part + gap for part, gap in zip(parts, gaps, strict=False)).split()))
)
optional_texts = st.none() | texts
years = st.none() | st.integers(2015, 2022)


def some(terms, most=3):
    """Some values of an axis, in the order of their definition."""
    return st.sets(st.sampled_from(list(terms)), max_size=most).map(lambda chosen: tuple(term for term in terms if term in chosen))


people = st.builds(
    Person,
    given=st.sampled_from(["", "Ada", "Jean-Luc", "J. R.", "Élise"]),
    family=st.sampled_from(["Li", "van Beek", "Müller", "O'Neill", "de la Cruz", "Garcia Lopez"]),
    suffix=st.just(""),
)
links = st.builds(
    lambda module, relation, text: ReferenceLink(
        implementation=module, relation=relation, differs=text if relation in (Relation.VARIANT, Relation.SUBJECT) else None
    ),
    st.sampled_from(MODULES),
    st.sampled_from(list(Relation)),
    texts,
)
measurements = st.builds(
    Measurement, metric=texts, value=st.floats(allow_nan=False, allow_infinity=False), dataset=texts, network=texts, source=texts
)


@st.composite
def papers(draw, number):
    """The paper with this number; it may build on earlier ones."""
    tags = {axis: draw(some(terms)) for axis, terms in AXES.items()}
    settings = Settings(**{axis: tags.pop(axis) for axis in SETTINGS})
    networks, applications = tags.pop("networks"), tags.pop("applications")
    note = draw(texts) if How.OTHER in tags["how"] else None
    year = draw(years)
    entry_type, venue = draw(st.sampled_from([("article", 1), ("inproceedings", 0), ("misc", None), ("misc", 1)]))
    paper = Paper(
        key=key(number, year),
        entry_type=entry_type,
        title=draw(texts),
        authors=tuple(draw(st.lists(people, max_size=3))),
        year=year,
        venue=None if venue is None else VENUES[venue],
        doi=draw(st.none() | st.just(f"10.1000/x_{number}")),
        arxiv=draw(st.none() | st.just(f"2001.{number:05}")),
        openreview=draw(st.none() | st.just(f"abc_{number:04}")),
        url=draw(st.none() | st.sampled_from(["https://example.org/~a_b?c=1&d=%20", "http://example.org"])),
        pages=draw(st.none() | st.just("10-12")),
        volume=draw(st.none() | st.just("3")),
        number=draw(st.none() | st.just("4")),
        publisher=draw(optional_texts),
        note=draw(optional_texts),
        source=draw(texts),
        name=draw(optional_texts),
        kind=draw(st.sampled_from(list(Kind))),
        taxonomy=Taxonomy(**tags, how_note=note, settings=settings),
        networks=networks,
        applications=applications,
        references=tuple(draw(st.lists(links, min_size=1, max_size=3))),
        builds_on=(),
        code=tuple(draw(st.sets(st.sampled_from(["https://example.org/a", "https://example.org/b"])))),
        reported=tuple(draw(st.lists(measurements, max_size=2))),
        authors_unknown=draw(st.booleans()),
        summary=draw(texts),
    )
    needed = [axis for axis in EVIDENCE_AXES if axis in paper.evidence_needed()]
    return paper.model_copy(update={"evidence": {axis: draw(st.sampled_from(list(Evidence))) for axis in needed}})


def key(number, year):
    """A valid key, different for every number."""
    return f"li{year or 'undated'}x{number}"


@st.composite
def catalogs(draw, most=8):
    """Papers by year and key, as reading gives them."""
    found = [draw(papers(number)) for number in range(draw(st.integers(0, most)))]
    linked = []
    for number, paper in enumerate(found):
        earlier = draw(st.sets(st.sampled_from(range(number)), max_size=2)) if number else set()
        linked.append(paper.model_copy(update={"builds_on": tuple(found[position].key for position in sorted(earlier, reverse=True))}))
    return sorted(linked, key=lambda paper: (paper.year is None, paper.year, paper.key))
