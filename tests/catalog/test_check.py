# ruff: noqa: E501  # a table of cases reads best with one line each
"""Every problem is found, at its line, with what is allowed; and nothing else is."""

import re

import pytest

from catalog import InvalidCatalog
from catalog.check import check, checked, coverage, doubts
from catalog.read import read

SHEARS = "catalog/papers/muller2019shears.md"
LEAVES = "catalog/papers/beek2019leaves.md"
APPLE = "catalog/papers/adler1990pruning.md"
TRUNKS = "catalog/papers/anonundatedtrunks.md"
BIB_1990 = "catalog/bibliography/1990.bib"
BIB_2019 = "catalog/bibliography/2019.bib"
MODULE = "reference_impls/before_training/shears.py"


def problems(garden):
    return [str(problem) for problem in check(read(garden.root), garden.root)]


def test_the_garden_is_clean(garden):
    assert problems(garden) == []
    assert len(checked(garden.root).papers) == 4


# path, old text, new text, where the problem stands, what it says, what is allowed
ONE_PROBLEM = {
    "unknown tag": (SHEARS, "how: [sensitivity, other]", "how: [sensitivty, other]", f"{SHEARS}:7", "unknown how `sensitivty`, did you mean `sensitivity`?", "magnitude, lp_norm, sensitivity"),
    "unknown tag in a list of several lines": (SHEARS, "how: [sensitivity, other]", "how:\n    - other\n    - sensory", f"{SHEARS}:9", "unknown how `sensory`", "loss_change"),
    "unknown setting": (APPLE, "weights: [pretrained]", "weights: [trained]", f"{APPLE}:8", "unknown weights `trained`, did you mean `pretrained`?", "initialized, pretrained"),
    "unknown field": (SHEARS, "name: SHEARS", "nme: SHEARS", f"{SHEARS}:3", "unknown field `nme`, did you mean `name`?", "key, name, kind, taxonomy"),
    "unknown axis": (APPLE, "  when: [after_training]", "  wen: [after_training]", f"{APPLE}:6", "unknown field `wen`, did you mean `when`?", "speedup, granularity, when"),
    "unknown kind": (TRUNKS, "kind: survey", "kind: surveys", f"{TRUNKS}:3", "unknown kind `surveys`, did you mean `survey`?", "method, theory"),
    "unknown relation": (TRUNKS, "relation: subject", "relation: subjects", f"{TRUNKS}:6", "unknown relation `subjects`, did you mean `subject`?", "implements, variant, subject, nearest"),
    "unknown evidence": (LEAVES, "when: title", "when: titel", f"{LEAVES}:5", "unknown when `titel`, did you mean `title`?", "survey_figure"),
    "a tag twice": (APPLE, "speedup: [unstructured]", "speedup: [unstructured, unstructured]", f"{APPLE}:5", "named twice: unstructured", ""),
    "no list": (APPLE, "speedup: [unstructured]", "speedup: unstructured", f"{APPLE}:5", '`speedup`: "unstructured" does not fit', "list"),
    "a number for text": (SHEARS, "name: SHEARS", "name: 2019", f"{SHEARS}:3", "`name`: 2019 does not fit", "string"),
    "text for a number": (SHEARS, "value: 91.5", "value: a lot", f"{SHEARS}:18", '`value`: "a lot" does not fit', "number"),
    "missing taxonomy": (LEAVES, "taxonomy: {when: [run_time]}\nevidence: {when: title}\n", "", f"{LEAVES}:2", "`taxonomy` is missing", "required"),
    "missing relation": (APPLE, ", relation: implements", "", f"{APPLE}:12", "`relation` is missing", "required"),
    "other without a note": (SHEARS, "  how_note: asks the gardener\n", "", f"{SHEARS}:4", "how_note stands beside `other`", ""),
    "a note without other": (SHEARS, "[sensitivity, other]", "[sensitivity]", f"{SHEARS}:4", "how_note stands beside `other`", ""),
    "variant without difference": (SHEARS, ', differs: "It cuts before, not after."', "", f"{SHEARS}:14", "differs is missing: a variant says", ""),
    "subject without difference": (TRUNKS, ", differs: It describes what the module does.", "", f"{TRUNKS}:6", "differs is missing: a subject says", ""),
    "implements with a difference": (APPLE, "relation: implements", "relation: implements, differs: somehow", f"{APPLE}:12", "differs does not go with implements", "variant, subject"),
    "empty difference": (TRUNKS, "It describes what the module does.", "''", f"{TRUNKS}:6", "`differs` is empty", "text"),
    "duplicate key": (APPLE, "kind: method", "kind: method\nkind: theory", f"{APPLE}:4", "`kind` is given twice", "once"),
    "duplicate nested key": (LEAVES, "{when: [run_time]}", "{when: [run_time], when: [run_time]}", f"{LEAVES}:4", "`when` is given twice", "once"),
    "broken YAML": (LEAVES, "{when: [run_time]}", "{when: [run_time}", f"{LEAVES}:4", "this is no YAML", "field: value"),
    "code that is no address": (SHEARS, "https://example.org/code2", "javascript:alert(1)", f"{SHEARS}:16", "`javascript:alert(1)` is no code", "https://"),
    "empty body": (SHEARS, "Shears cut at the beginning.\n", "\n", f"{SHEARS}:21", "no summary", "two to five sentences"),
    "summary as a field": (SHEARS, "name: SHEARS", "name: SHEARS\nsummary: x", f"{SHEARS}:4", "`summary` is no field", "below the second ---"),
    "no front matter": (LEAVES, "---\nkey: beek2019leaves", "key: beek2019leaves", f"{LEAVES}:1", "no front matter", "between two lines ---"),
    "key is not the file": (LEAVES, "key: beek2019leaves", "key: beek2019leafs", f"{LEAVES}:2", "key `beek2019leafs` in a file called beek2019leaves.md", "beek2019leaves"),
    "tag without evidence": (APPLE, "networks: title", "", f"{APPLE}:10", "no evidence for `networks`", "networks: survey_figure | "),
    "settings without evidence": (APPLE, "settings: full_text, ", "", f"{APPLE}:10", "no evidence for `settings`", "settings: survey_figure | "),
    "evidence without tag": (LEAVES, "{when: title}", "{when: title, how: title}", f"{LEAVES}:5", "evidence for `how`, which is empty", "when"),
    "evidence for no axis": (LEAVES, "{when: title}", "{when: title, passes: title}", f"{LEAVES}:5", "unknown axis of evidence `passes`", "speedup, granularity"),
    "a nearest that is written": (APPLE, "relation: implements", "relation: nearest", f"{APPLE}:12", "`nearest` is worked out from the tags", "or no reference"),
    "two links to one module": (SHEARS, "implementation: after_training.saw", "implementation: before_training.shears", f"{SHEARS}:14", "a second link to before_training.shears", "one link"),
    "no such module": (TRUNKS, "before_training.shears", "before_training.shear", f"{TRUNKS}:6", "there is no implementation `before_training.shear`, did you mean `before_training.shears`?", "reference_impls/before_training/shear.py"),
    "module without folder": (TRUNKS, "before_training.shears", "shears", f"{TRUNKS}:6", "`shears` is no implementation", "folder.module"),
    "builds on nothing": (LEAVES, "[muller2019shears, adler1990pruning]", "\n  - muller2019shears\n  - adler1990prune", f"{LEAVES}:8", "builds_on: unknown key `adler1990prune`, did you mean `adler1990pruning`?", "keys of the catalog"),
    "builds on no key": (LEAVES, "[muller2019shears, adler1990pruning]", "[SHEARS]", f"{LEAVES}:6", "`SHEARS` is no builds_on", "lee2019snip"),
    "builds on itself": (APPLE, "kind: method", "builds_on: [adler1990pruning]", f"{APPLE}:3", "builds_on goes round: adler1990pruning -> adler1990pruning", "no cycle"),
    "a cycle": (APPLE, "kind: method", "builds_on: [beek2019leaves]", f"{APPLE}:3", "builds_on goes round: adler1990pruning -> beek2019leaves -> adler1990pruning", "no cycle"),
    "the folder of another time": (SHEARS, "when: [before_training]", "when: [after_training]", f"{SHEARS}:13", "implemented in before_training/", "after_training, fusion"),
    "no authors": (TRUNKS, "authors_unknown: true\n", "", "catalog/bibliography/undated.bib:1", "no author", "authors_unknown: true"),
    "unknown authors that are known": (LEAVES, "kind: adjacent", "authors_unknown: true", f"{LEAVES}:3", "authors_unknown, but the entry has authors", "one of the two"),
    "unknown BibTeX field": (BIB_1990, "  volume ", "  volumen ", f"{BIB_1990}:6", "unknown field `volumen`, did you mean `volume`?", "title, author"),
    "BibTeX field twice": (BIB_1990, "  volume   = {2},", "  volume = {2},\n  volume = {3},", f"{BIB_1990}:1", "field `volume` is given twice", "once"),
    "no source": (BIB_1990, "  x-source = {made up},\n", "", f"{BIB_1990}:1", "`x-source` is missing", "required"),
    "no title": (BIB_2019, "  title         = {Leaves that Choose Themselves},\n", "", f"{BIB_2019}:14", "`title` is missing", "required"),
    "empty title": (BIB_2019, "{Leaves that Choose Themselves}", "{}", f"{BIB_2019}:15", "`title` is empty", "text"),
    "unknown entry type": (BIB_1990, "@article", "@artikel", f"{BIB_1990}:1", "unknown entry_type `artikel`, did you mean `article`?", "article, inproceedings"),
    "malformed DOI": (BIB_1990, "10.1000/apple.1", "https://doi.org/10.1000/apple.1", f"{BIB_1990}:8", "`https://doi.org/10.1000/apple.1` is no doi", "10.NNNN/suffix"),
    "malformed arXiv id": (BIB_2019, "1901.00001", "1901.00001v2", f"{BIB_2019}:6", "`1901.00001v2` is no arxiv", "without version"),
    "eprint of nowhere": (BIB_2019, "  archiveprefix = {arXiv},\n", "", f"{BIB_2019}:6", "eprint and archiveprefix go together", "archiveprefix = {arXiv}"),
    "a year that is none": (BIB_1990, "year     = {1990}", "year     = {MCMXC}", f"{BIB_1990}:5", '`year`: "MCMXC" does not fit', "integer"),
    "address that is none": (BIB_2019, "https://example.org/shears", "javascript:alert(1)//", f"{BIB_2019}:9", "is no url", "https://"),
    "unknown venue": (BIB_1990, "{Journal of Botany}", "{Journal of Botanics}", f"{BIB_1990}:4", "unknown venue `Journal of Botanics`, did you mean `Journal of Botany`?", "Journal of Botany"),
    "two venues": (BIB_1990, "  volume   = {2},", "  booktitle = {ICLR},", f"{BIB_1990}:6", "a second venue beside journal", "one of"),
    "and others": (BIB_1990, "King, Jr., Martin", "others", f"{BIB_1990}:3", "author `others`", "every author by name"),
    "a name with too many commas": (BIB_1990, "King, Jr., Martin", "King, Jr., Martin, Dr.", f"{BIB_1990}:3", "author `King, Jr., Martin, Dr.`", "Family, Given"),
    "entry in another year's file": (BIB_2019, "year          = {2019}", "year          = {2018}", f"{BIB_2019}:5", "an entry of 2018 in 2019.bib", "2018.bib"),
    "text between entries": (BIB_2019, "% two years later", "two years later", f"{BIB_2019}:13", "text outside an entry", "lines that start with %"),
    "an escape character": (BIB_2019, "Leaves that", "Leaves \x1b[31m that", f"{BIB_2019}:15", "control character U+001B", "printable text"),
    "a turned line": (SHEARS, "Shears cut", "Shears \u202e cut", f"{SHEARS}:21", "control character U+202E", "printable text"),
    "a string block": (BIB_2019, "% two years later", '@string{x = "y"}', f"{BIB_2019}:13", "a String block", "entries only"),
    "a docstring without the key": (MODULE, "muller2019shears", "nobody", f"{MODULE}:1", "the docstring does not name `muller2019shears`", "name its key"),
    "a docstring with an unknown key": (MODULE, '"""After muller2019shears.', '"""After muller2019shears.\n\nNot muller2020shears.\n', f"{MODULE}:3", "names `muller2020shears`, which is no paper, did you mean `muller2019shears`?", "keys of the catalog"),
    "a docstring that names a paper without a link back": (MODULE, '"""After muller2019shears.', '"""After muller2019shears.\n\nLike adler1990pruning.\n', f"{MODULE}:3", "names `adler1990pruning`, whose record has no link back", "{implementation: before_training.shears, relation: ...}"),
    "no entry function": (MODULE, "def masks", "def cut", f"{MODULE}:1", "public entry functions: none", "exactly one of masks, prune, callbacks, wrap"),
    "two entry functions": (MODULE, "def masks", "def wrap(model):\n    pass\n\n\ndef masks", f"{MODULE}:1", "public entry functions: masks, wrap", "exactly one"),
    "no Python": (MODULE, "def masks", "def masks masks", f"{MODULE}:1", "this is no Python", "Python"),
    "venue of unknown kind": ("catalog/venues.yaml", "kind: journal", "kind: jornal", "catalog/venues.yaml:2", "unknown kind `jornal`, did you mean `journal`?", "conference"),
    "venues of one name": ("catalog/venues.yaml", "name: arXiv", "name: ICLR", "catalog/venues.yaml:3", "`iclr` names both iclr and arxiv", "one venue per spelling"),
}  # fmt: skip
CONSEQUENCES = {"two links to one module": 1, "a cycle": 1, "entry in another year's file": 1, "venue of unknown kind": 1}
"""How many more problems follow: an entry of another year has the wrong key, too."""


@pytest.mark.parametrize("case", ONE_PROBLEM)
def test_a_problem_is_found_at_its_line(garden, case):
    path, old, new, where, says, allowed = ONE_PROBLEM[case]
    garden.replace(path, old, new)
    found = problems(garden)
    [problem] = [problem for problem in found if problem.startswith(f"{where}: ") and says in problem]
    assert "; allowed: " in problem or not allowed
    assert allowed in problem.partition("; allowed: ")[2]
    assert len(found) - 1 == CONSEQUENCES.get(case, 0), found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{beek2019leaves,", "{smith2019leaves,"),
        ("{beek2019leaves,", "{beek2018leaves,"),
        ("{beek2019leaves,", "{beek2019twigs,"),
    ],
)
def test_a_key_is_family_year_and_a_word_of_the_title(garden, old, new):
    garden.replace(BIB_2019, old, new)
    key = new[1:-1]
    (garden.root / LEAVES).rename(garden.root / f"catalog/papers/{key}.md")
    garden.replace(f"catalog/papers/{key}.md", "key: beek2019leaves", f"key: {key}")
    [problem] = problems(garden)
    assert re.match(rf"{BIB_2019}:14: key `{key}` does not fit the entry; allowed: beek2019<a word of the title>", problem)


@pytest.mark.parametrize("key", ["vanbeek2019leaves", "beek2019leavesb", "beek2019choose"])
def test_a_key_may_have_the_particle_another_word_or_a_letter(garden, key):
    garden.replace(BIB_2019, "{beek2019leaves,", f"{{{key},")
    (garden.root / LEAVES).rename(garden.root / f"catalog/papers/{key}.md")
    garden.replace(f"catalog/papers/{key}.md", "key: beek2019leaves", f"key: {key}")
    assert problems(garden) == []


def test_a_key_is_ascii(garden):
    garden.replace(BIB_2019, "{muller2019shears,", "{müller2019shears,")
    assert any(p.startswith(f"{BIB_2019}:1: `müller2019shears` is no key; allowed: family name, year") for p in problems(garden))


def test_record_without_entry_and_entry_without_record(garden):
    (garden.root / LEAVES).rename(garden.root / "catalog/papers/beek2019leafs.md")
    garden.replace("catalog/papers/beek2019leafs.md", "key: beek2019leaves", "key: beek2019leafs")
    assert problems(garden) == [
        f"{BIB_2019}:14: `beek2019leaves` has no record; allowed: a file catalog/papers/beek2019leaves.md",
        "catalog/papers/beek2019leafs.md:1: `beek2019leafs` has no BibTeX entry, did you mean `beek2019leaves`?; "
        "allowed: an entry in catalog/bibliography/<year>.bib",
    ]


@pytest.mark.parametrize(
    ("field", "first", "second", "what"),
    [
        ("doi", "10.1000/APPLE.1", None, "DOI"),
        ("eprint", "1901.00001}, archiveprefix = {arXiv", None, "arXiv id"),
        ("x-openreview", "B1shears01", None, "OpenReview id"),
    ],
)
def test_two_papers_with_one_identifier(garden, field, first, second, what):
    garden.replace("catalog/bibliography/undated.bib", "  x-source", f"  {field} = {{{first}}},\n  x-source")
    [problem] = problems(garden)
    key = "adler1990pruning" if what == "DOI" else "muller2019shears"
    assert problem.startswith(f"catalog/bibliography/undated.bib:3: the {what} of `anonundatedtrunks` is also that of `{key}`")


def test_two_papers_with_one_title(garden):
    garden.replace(
        "catalog/bibliography/undated.bib", "A Survey of Trunks & Branches: 100% <b>bare</b>", "pruning {Äpple} trees: IN winter!"
    )
    assert any("the title of `anonundatedtrunks` is also that of `adler1990pruning`" in problem for problem in problems(garden))


def test_one_broken_entry_hides_no_other_problem(garden):
    garden.replace(BIB_2019, "  author        = {Bram van Beek},", "  author        = {Bram van Beek,")
    garden.replace(APPLE, "[magnitude]", "[magnitud]")
    found = problems(garden)
    assert any(problem.startswith(f"{BIB_2019}:14: this block cannot be read") for problem in found), found
    assert any(problem.startswith(f"{APPLE}:7: unknown how `magnitud`") for problem in found)


def test_entries_twice(garden):
    twin = "@misc{adler1990pruning, title = {Pruning}, x-source = {x}}\n"
    garden.write(BIB_1990, (garden.root / BIB_1990).read_text() + twin)
    garden.write("catalog/bibliography/1991.bib", twin)
    assert problems(garden) == [
        f"{BIB_1990}:11: a second entry with the key `adler1990pruning`; allowed: one",
        f"catalog/bibliography/1991.bib:1: a second entry with the key `adler1990pruning`, the first is {BIB_1990}:1; allowed: one",
    ]


def test_all_problems_of_one_record_at_once(garden):
    garden.replace(SHEARS, "how: [sensitivity, other]", "how: [sense, other]")
    garden.replace(SHEARS, "name: SHEARS", "nam: SHEARS")
    garden.replace(SHEARS, "value: 91.5", "value: no")
    assert [problem.split(": ")[0] for problem in problems(garden)] == [f"{SHEARS}:3", f"{SHEARS}:7", f"{SHEARS}:18"]


def test_missing_tests_snippet_and_papers_of_an_implementation(garden):
    garden.write("reference_impls/fusion/graft.py", '"""Grafting."""\n\n\ndef wrap(model):\n    pass\n')
    assert problems(garden) == [
        "reference_impls/fusion/graft.py:1: no paper links to this implementation; allowed: at least one",
        "reference_impls/fusion/graft.py:1: no runnable snippet; allowed: a file site_src/snippets/fusion/graft.py",
        "reference_impls/fusion/graft.py:1: no tests; allowed: a file tests/reference_impls/fusion/test_graft.py",
    ]


def test_early_training_stands_in_during_training_and_fusion_needs_its_tag(garden):
    for old, new in (("reference_impls", "reference_impls"), ("site_src/snippets", "site_src/snippets")):
        (garden.root / new / "during_training").mkdir(parents=True)
        (garden.root / old / "before_training/shears.py").rename(garden.root / new / "during_training/shears.py")
    (garden.root / "tests/reference_impls/during_training").mkdir()
    tests = garden.root / "tests/reference_impls"
    (tests / "before_training/test_shears.py").rename(tests / "during_training/test_shears.py")
    for path in (SHEARS, TRUNKS):
        garden.replace(path, "before_training.shears", "during_training.shears")
    garden.replace(SHEARS, "when: [before_training]", "when: [early_training]")
    assert problems(garden) == []
    garden.replace(SHEARS, "when: [early_training]", "when: [run_time]")
    [problem] = problems(garden)
    assert "allowed: fusion, run_time" in problem


def test_a_file_that_is_not_utf8(garden):
    (garden.root / LEAVES).write_bytes(b"---\nkey: beek2019leaves\nname: \xff\n---\nx\n")
    assert f"{LEAVES}:3: this is not UTF-8; allowed: UTF-8" in problems(garden)


def test_no_venue_table(garden):
    (garden.root / "catalog/venues.yaml").unlink()
    assert "catalog/venues.yaml:1: there is no venue table; allowed: id: {name, abbreviation, kind, series}" in problems(garden)


def test_checked_raises_with_every_problem_sorted(garden):
    garden.replace(SHEARS, "how: [sensitivity, other]", "how: [sense, other]")
    garden.replace(APPLE, "[magnitude]", "[magnitud]")
    with pytest.raises(InvalidCatalog) as caught:
        checked(garden.root)
    assert [problem.path for problem in caught.value.problems] == [APPLE, SHEARS]
    assert str(caught.value).count("\n") == 1


def test_doubts(garden):
    found = doubts(read(garden.root).papers)
    assert found["no author list found"] == ["anonundatedtrunks"]
    assert found["no year"] == ["anonundatedtrunks"]
    assert found["a tag read from the title alone"] == ["adler1990pruning", "beek2019leaves"]
    assert found["how: other"] == ["muller2019shears"]


def test_coverage_counts_a_paper_once_by_its_closest_relation(garden):
    counts = coverage(read(garden.root).papers)
    assert counts["all"]["papers"] == {"implements": 2, "variant": 0, "subject": 1, "nearest": 1}
    assert counts["when"]["run_time"] == {"implements": 0, "variant": 0, "subject": 0, "nearest": 1}
    assert counts["speedup"]["unstructured"]["implements"] == 2
    assert "relation" not in counts
