"""How a paper is cited: for people (APA), for reference managers (RIS) and for crawlers (`citation_*`, JSON-LD)."""

import json
import re
from typing import Any

from schema.records import Paper, Person

RIS_TYPES = {
    "inproceedings": "CPAPER",
    "article": "JOUR",
    "incollection": "CHAP",
    "book": "BOOK",
    "phdthesis": "THES",
    "mastersthesis": "THES",
}
VENUE_FIELDS = {
    "conference": "conference_title",
    "workshop": "conference_title",
    "journal": "journal_title",
    "book": "inbook_title",
    "thesis": "dissertation_institution",
    "report": "technical_report_institution",
}
"""Kind of venue -> the `citation_` field that names it; a preprint server is none of these."""


def apa(paper: Paper) -> str:
    """A reference in the style of the APA, as plain text."""
    names = [_initials(author) for author in paper.authors]
    if len(names) > 20:
        names = [*names[:19], "…", names[-1]]
    authors = f"{', '.join(names[:-1])}, & {names[-1]}" if len(names) > 1 else "".join(names)
    parts = [f"{authors} ({paper.year or 'n.d.'})." if authors else f"({paper.year or 'n.d.'}).", f"{paper.title.rstrip('.')}."]
    if paper.venue:
        parts.append(f"{paper.venue.name}.")
    if address := official(paper):
        parts.append(address)
    return " ".join(parts)


def ris(paper: Paper) -> str:
    """The paper's entry in RIS."""
    venue = paper.venue.name if paper.venue else None
    first, last = _pages(paper)
    fields = [
        ("TY", RIS_TYPES.get(paper.entry_type, "GEN")),
        ("ID", paper.key),
        ("TI", paper.title),
        *(("AU", _inverted(author)) for author in paper.authors),
        ("PY", paper.year),
        ("T2", venue),
        ("VL", paper.volume),
        ("IS", paper.number),
        ("SP", first),
        ("EP", last),
        ("PB", paper.publisher),
        ("DO", paper.doi),
        ("UR", official(paper)),
    ]
    lines = [f"{tag}  - {value}" for tag, value in fields if value]
    return "\n".join([*lines, "ER  - "])


def official(paper: Paper) -> str | None:
    """Where the paper itself is."""
    if paper.doi:
        return f"https://doi.org/{paper.doi}"
    if paper.url:
        return paper.url
    return f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else None


def meta(paper: Paper) -> list[list[str]]:
    """`citation_*` names and contents that Zotero and Google Scholar read."""
    first, last = _pages(paper)
    pairs: list[tuple[str, Any]] = [("title", paper.title), *(("author", _inverted(author)) for author in paper.authors)]
    pairs += [("publication_date", paper.year), ("doi", paper.doi), ("arxiv_id", paper.arxiv)]
    if paper.venue and paper.venue.kind in VENUE_FIELDS:
        pairs.append((VENUE_FIELDS[paper.venue.kind], paper.venue.name))
    pairs += [("volume", paper.volume), ("issue", paper.number), ("firstpage", first), ("lastpage", last), ("publisher", paper.publisher)]
    return [[name, str(value)] for name, value in pairs if value]


def linked_data(paper: Paper) -> str:
    """JSON-LD of the paper, safe inside a script element."""
    first, last = _pages(paper)
    facts = {
        "@context": "https://schema.org",
        "@type": "ScholarlyArticle",
        "headline": paper.title,
        "author": [{"@type": "Person", "name": author.name} for author in paper.authors],
        "datePublished": str(paper.year) if paper.year else None,
        "isPartOf": {"@type": "PublicationVolume", "name": paper.venue.name} if paper.venue else None,
        "pageStart": first,
        "pageEnd": last,
        "identifier": [{"@type": "PropertyValue", "propertyID": name, "value": value} for name, value in _identifiers(paper)],
        "sameAs": addresses(paper),
    }
    written = json.dumps({name: value for name, value in facts.items() if value}, ensure_ascii=True)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def addresses(paper: Paper) -> list[str]:
    """Every address under which the paper itself stands, the official one first."""
    found = [official(paper), paper.url]
    found += [f"https://arxiv.org/abs/{paper.arxiv}"] if paper.arxiv else []
    found += [f"https://openreview.net/forum?id={paper.openreview}"] if paper.openreview else []
    return [address for address in dict.fromkeys(found) if address]


def _identifiers(paper: Paper) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (("DOI", paper.doi), ("arXiv", paper.arxiv), ("OpenReview", paper.openreview)) if value]


def _pages(paper: Paper) -> tuple[str | None, str | None]:
    """First and last page; only the first where the source gives no range."""
    if paper.pages is None:
        return None, None
    first, *rest = re.split(r"\s*[-–]+\s*", paper.pages)
    return first, rest[-1] if rest else None


def _inverted(author: Person) -> str:
    return ", ".join(part for part in (author.family, author.given, author.suffix) if part)


def _initials(author: Person) -> str:
    initials = " ".join(f"{part[0]}." for part in author.given.replace("-", " ").split())
    return ", ".join(part for part in (author.family, initials, author.suffix) if part)
