"""BibTeX in and out: LaTeX, names, lines, and that what is written reads back as it was."""

import pytest
from hypothesis import given, settings

from catalog import bibtex
from catalog.read import Reading, _entry
from schema.records import Entry, Person, fold
from tests.made_up_papers import VENUES, papers


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"M{\"u}ller and {\'E}t{\'e} and Bj{\o}rn and Na\"{\i}ve", "Müller and Été and Bjørn and Naïve"),
        (r"Polyak-{\L}ojasiewicz Condition", "Polyak-Łojasiewicz Condition"),
        ("{SNIP}: {S}ingle-shot\n  Network", "SNIP: Single-shot Network"),
        (r"Don't \& do 90\% of 5% -- yet", "Don't & do 90% of 5% -- yet"),  # a bare % is no comment, an apostrophe no quote
        ("Don't & do 90% of 5% -- yet", "Don't & do 90% of 5% -- yet"),
        (r"{\'E}t{\'e}'s 5% -- and 90\%", "Été's 5% -- and 90%"),
        (r"Top-$p$ Pruning at $\ell_1$", "Top-p Pruning at ℓ_1"),
        ("costs 5$", "costs 5$"),
        (r"a \textbackslash{} \{b\} \textasciitilde{} \textasciicircum{}", r"a \ {b} ~ ^"),
    ],
)
def test_decode(latex, text):
    assert bibtex.decode(latex) == text


@pytest.mark.parametrize(
    ("author", "people"),
    [
        ("Lee, Namhoon and Torr, Philip H. S.", [("Namhoon", "Lee", ""), ("Philip H. S.", "Torr", "")]),
        ("Ludwig van Beethoven", [("Ludwig", "van Beethoven", "")]),
        ("van den Hengel, Anton", [("Anton", "van den Hengel", "")]),
        ("King, Jr., Martin Luther", [("Martin Luther", "King", "Jr.")]),
        (r"M{\"u}ller, J{\'a}n", [("Ján", "Müller", "")]),
        ("{The Orchard Team}", [("", "The Orchard Team", "")]),
        ("{Barnes and Noble} and Madonna", [("", "Barnes and Noble", ""), ("", "Madonna", "")]),
        ("Le Cun, Yann", [("Yann", "Le Cun", "")]),
        ("Jean-Luc Picard", [("Jean-Luc", "Picard", "")]),
    ],
)
def test_people(author, people):
    assert list(bibtex.people(author)) == [Person(given=given, family=family, suffix=suffix) for given, family, suffix in people]


@pytest.mark.parametrize(
    "author", ["Lee, N. and others", "A, B, C, D", "Lee, N. and ", "and Lee, N.", "Lee, N. and and Torr, P.", "Lee, {N"]
)
def test_people_that_cannot_be_read(author):
    with pytest.raises(ValueError, match="allowed: "):
        list(bibtex.people(author))


def test_parse_knows_the_line_of_everything_and_goes_on_after_a_broken_block():
    text = "% comment\n\n@misc{a,\n  title = {A},\n  note =\n {B},\n}\n@misc{b, title = {C\n@misc{c,\n  title = {D}\n}\n"
    entries, problems = bibtex.parse(text)
    assert [(entry.key, entry.line, entry.lines, entry.values) for entry in entries] == [
        ("a", 3, {"title": 4, "note": 5}, {"title": "A", "note": "B"}),
        ("c", 9, {"title": 10}, {"title": "D"}),
    ]
    assert [line for line, _ in problems] == [8]


def test_values_in_quotes_braces_and_bare():
    entries, _ = bibtex.parse('@MISC{a, Title = "A {B}", year = 2019, note = {"C"}}')
    assert entries[0].values == {"title": "A {B}", "year": "2019", "note": '"C"'}
    assert entries[0].entry_type == "misc"


@settings(deadline=None, max_examples=150)
@given(papers(1))
def test_what_is_written_reads_back(paper):
    entry = Entry(**{name: getattr(paper, name) for name in Entry.model_fields})
    raws, problems = bibtex.parse(bibtex.render(entry))
    assert not problems
    reading = Reading(spellings={fold(venue.name): venue for venue in VENUES})
    assert _entry("a.bib", raws[0], reading) == entry
    assert not reading.problems


ADA = Person(given="Ada", family="van Beek")


def test_rendering():
    entry = Entry(
        key="li2019snip", entry_type="article", title="SNIP & 50% of iPhones in Paris", source="here", year=2019,
        authors=(ADA, Person(given="M.", family="King", suffix="Jr."), Person(given="", family="The Team")),
        venue=VENUES[1], pages="1-9", arxiv="1901.00001", url="https://example.org/a_b",
    )  # fmt: skip
    assert bibtex.render(entry).splitlines() == [
        "@article{li2019snip,",
        r"  title         = {{SNIP} \& 50\% of {iPhones} in Paris},",
        "  author        = {van Beek, Ada and King, Jr., M. and {The Team}},",
        r"  journal       = {Journal of Botany \& Ëcology},",
        "  year          = {2019},",
        "  pages         = {1--9},",
        "  eprint        = {1901.00001},",
        "  archiveprefix = {arXiv},",
        r"  url           = {https://example.org/a\_b},",
        "  x-source      = {here},",
        "}",
    ]
