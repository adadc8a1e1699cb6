"""BibTeX in and out: fields with their lines, names in their parts, LaTeX as Unicode."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from bibtexparser.entrypoint import parse_string
from bibtexparser.middlewares.names import InvalidNameError, parse_single_name_into_parts, split_multiple_persons_names
from bibtexparser.model import DuplicateBlockKeyBlock, DuplicateFieldKeyBlock, ImplicitComment
from bibtexparser.model import Entry as EntryBlock
from pylatexenc import latex2text, latexwalker  # type: ignore[import-untyped]  # it ships no types

from schema.records import Entry, Person

logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # a block that fails is reported by `parse`, with its line

VENUE_FIELDS = ("booktitle", "journal", "howpublished", "school", "institution")
FIELDS = (
    *("title", "author", *VENUE_FIELDS, "year", "volume", "number", "pages", "publisher", "doi", "eprint", "archiveprefix"),
    *("x-openreview", "url", "note", "x-source"),
)
"""The fields of an entry, in the order in which they are written."""

# without "specials", so that an apostrophe or a dash means the same in a value with and without LaTeX in it
_WALKER = latexwalker.get_default_latex_context_db().filter_context(keep_which=["macros", "environments"])
_MACROS = latex2text.get_default_latex_context_db().filter_context(keep_which=["macros", "environments"])
_MACROS.add_context_category("ascii", prepend=True, macros=[latex2text.MacroTextSpec("textasciicircum", simplify_repl="^")])
_DECODER = latex2text.LatexNodes2Text(latex_context=_MACROS, math_mode="text")
_LATEX = re.compile(r"\\[^&%$#_{}]|(?<!\\)\$.*(?<!\\)\$", re.DOTALL)
"""Commands and formulas; an escaped character alone does not need the decoder, which is slow."""
_ESCAPES = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass
class RawEntry:
    """An entry as written.

    Attributes:
        line: of `@type{key,`, counted from 1.
        values: field -> value, without the outer braces or quotes.
        lines: field -> line.
    """

    key: str
    entry_type: str
    line: int
    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def parse(text: str) -> tuple[list[RawEntry], list[tuple[int, str]]]:
    """The entries of a BibTeX file, and what is wrong with its syntax as (line, message).

    An entry with a field given twice is returned, with the first one; a second entry of the same key is not.
    """
    entries, problems = [], []
    for block in parse_string(text, parse_stack=[]).blocks:
        line = (block.start_line or 0) + 1
        if isinstance(block, DuplicateFieldKeyBlock):
            for name in sorted(block.duplicate_keys):
                problems.append((line, f"field `{name}` is given twice in one entry; allowed: once"))
        readable = block.ignore_error_block if isinstance(block, DuplicateFieldKeyBlock) else block
        if isinstance(readable, EntryBlock):
            entry = RawEntry(readable.key, readable.entry_type.lower(), line)
            for item in readable.fields:
                entry.values.setdefault(item.key.lower(), _unwrapped(str(item.value)))
                entry.lines.setdefault(item.key.lower(), (item.start_line or 0) + 1)
            entries.append(entry)
        elif isinstance(block, DuplicateBlockKeyBlock):
            problems.append((line, f"a second entry with the key `{block.key}`; allowed: one"))
        elif isinstance(block, ImplicitComment):
            stray = [
                number for number, content in enumerate(block.comment.splitlines(), line) if content.strip() and content.strip()[0] != "%"
            ]
            if stray:
                problems.append((stray[0], "text outside an entry; allowed: entries, and lines that start with %"))
        elif hasattr(block, "error"):
            problems.append((line, f"this block cannot be read ({_reason(block.error)}); allowed: @type{{key, field = {{value}}, ...}}"))
        else:
            problems.append((line, f"a {type(block).__name__} block; allowed: entries only"))
    return entries, problems


def _unwrapped(value: str) -> str:
    """A value without its outer braces or quotes; the parser's own step for it leaves out entries with a field given twice."""
    value = value.strip()
    return value[1:-1] if value[:1] + value[-1:] in ("{}", '""') else value


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "abort_reason", error)).split())
    return text.rstrip(".") or type(error).__name__


def decode(text: str) -> str:
    """LaTeX as Unicode, without protecting braces and with single spaces."""
    if _LATEX.search(text):
        protected = re.sub(r"(?<!\\)%", r"\\%", text)  # TeX would read the rest as a comment
        nodes, _, _ = latexwalker.LatexWalker(protected, latex_context=_WALKER, tolerant_parsing=True).get_latex_nodes()
        text = _DECODER.nodelist_to_text(nodes)
    else:
        text = re.sub(r"\\([&%$#_{}])|[{}]", r"\1", text)
    return " ".join(text.split())


def people(author: str) -> Iterator[Person]:
    """The people of a BibTeX `author` field, in order.

    Raises:
        ValueError: a name that BibTeX cannot read, an empty name, or `others`.
    """
    for name in split_multiple_persons_names(" ".join(author.split())):
        try:
            parts = parse_single_name_into_parts(name)
        except InvalidNameError as error:
            raise ValueError(f"author `{name}`: {error.reason}; allowed: Family, Given or Family, Suffix, Given") from error
        given, particle, family, suffix = (decode(" ".join(part)) for part in (parts.first, parts.von, parts.last, parts.jr))
        # a word `and` that is left over joins nobody: an `and` too many, or one at an end
        joins_nobody = "and" in (*parts.first, *parts.von, *parts.last)
        if not family or joins_nobody or (family == "others" and not given):
            raise ValueError(f"author `{name}`; allowed: every author by name")
        yield Person(given=given, family=f"{particle} {family}".strip(), suffix=suffix)


def render(entry: Entry) -> str:
    """An entry as BibTeX that both LaTeX and `parse` read, ending in a line break."""
    values = {
        "title": " ".join(_protected(word) for word in entry.title.split(" ")),
        "author": " and ".join(_name(person) for person in entry.authors),
        _venue_field(entry.entry_type): _escaped(entry.venue.name) if entry.venue else None,
        "year": str(entry.year) if entry.year else None,
        "volume": _escaped(entry.volume),
        "number": _escaped(entry.number),
        "pages": _escaped(entry.pages.replace("-", "--")) if entry.pages else None,
        "publisher": _escaped(entry.publisher),
        "doi": _escaped(entry.doi),
        "eprint": entry.arxiv,
        "archiveprefix": "arXiv" if entry.arxiv else None,
        "x-openreview": _escaped(entry.openreview),
        "url": _escaped(entry.url),
        "note": _escaped(entry.note),
        "x-source": _escaped(entry.source),
    }
    lines = [f"  {name:<13} = {{{value}}},\n" for name, value in values.items() if value]
    return f"@{entry.entry_type}{{{entry.key},\n{''.join(lines)}}}\n"


def _venue_field(entry_type: str) -> str:
    return {
        "article": "journal",
        "inproceedings": "booktitle",
        "incollection": "booktitle",
        "phdthesis": "school",
        "mastersthesis": "school",
        "techreport": "institution",
    }.get(entry_type, "howpublished")


def _escaped(text: str | None) -> str | None:
    return None if text is None else "".join(_ESCAPES.get(character, character) for character in text)


def _protected(word: str) -> str:
    """Braces keep the casing of a word that is not plainly Capitalized, against styles that lower titles."""
    escaped = _escaped(word) or ""
    return f"{{{escaped}}}" if any(character.isupper() for character in word[1:]) else escaped


def _name(person: Person) -> str:
    family, given, suffix = (_escaped(part) or "" for part in (person.family, person.given, person.suffix))
    if not given:
        return f"{{{family}}}"
    return ", ".join(part for part in (family, suffix, given) if part)
