"""What the catalog knows about a paper, as strict, frozen models.

Two text files describe a paper. `Entry` is its BibTeX entry: the bibliographic facts. `Record` is its Markdown record: what the atlas adds.
`Paper` is the two joined, and the only thing that anything downstream sees.
"""

import importlib
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from schema.terms import (
    AXES,
    Application,
    Data,
    Evidence,
    Fusion,
    Granularity,
    How,
    Kind,
    Network,
    Passes,
    Recovery,
    Relation,
    Scope,
    Speedup,
    StructuredFamily,
    Supervision,
    Term,
    Transfer,
    Weights,
    When,
)

KEY_PATTERN = r"[a-z]+(?:[0-9]{4}|undated)[a-z0-9]+"
SETTINGS = ("passes", "data", "weights", "scope", "recovery", "transfer")
EVIDENCE_AXES = (
    "speedup",
    "granularity",
    "when",
    "how",
    "fusion",
    "structured_family",
    "settings",
    "supervision",
    "networks",
    "applications",
)

ENTRY_POINTS = ("masks", "prune", "callbacks", "wrap")
"""A reference implementation has exactly one public function of these names."""

_LETTERS = str.maketrans({"ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe", "ð": "d", "đ": "d", "þ": "th", "ı": "i"})


def fold(text: str) -> str:
    """Lower case without accents: `Müller` and `muller` are one."""
    decomposed = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def normalized_title(title: str) -> str:
    """The letters and digits of a title, folded: two papers with the same ones are one paper."""
    return "".join(character for character in fold(title) if character.isalnum())


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return values


def _as_defined(values: tuple[Term, ...]) -> tuple[Term, ...]:
    return tuple(sorted(_each_once(values), key=_position))


def _position(term: Term) -> int:
    return list(type(term).__members__.values()).index(term)


Once = AfterValidator(_each_once)
Tags = AfterValidator(_as_defined)
"""Each value once; a list of tags is a set, kept in the order in which the terms are defined."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Key = Annotated[str, StringConstraints(pattern=rf"^{KEY_PATTERN}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s<>\"\\]+$")]
Doi = Annotated[str, StringConstraints(pattern=r"^10\.[0-9]{4,9}/[^\s]+$")]
Arxiv = Annotated[str, StringConstraints(pattern=r"^([0-9]{4}\.[0-9]{4,5}|[a-z-]+(\.[A-Z]{2})?/[0-9]{7})$")]
OpenReview = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{6,}$")]
Module = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\.[a-z][a-z0-9_]*$")]
Count = Annotated[int, Field(ge=0)]
Year = Annotated[int, Field(ge=1940, le=2100)]


class Model(BaseModel):
    """Strict, frozen, and closed to fields that it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Person(Model):
    """Somebody who wrote a paper; one and the same wherever given name, family name and suffix are the same.

    Attributes:
        given: given names, `Martin`; empty for a group of authors.
        family: family name with its particle, `van Beethoven`.
        suffix: `Jr.`, `III`; mostly empty.
    """

    given: str
    family: Text
    suffix: str = ""

    @property
    def name(self) -> str:
        """`Given Family Suffix`."""
        return " ".join(part for part in (self.given, self.family, self.suffix) if part)


class Venue(Model):
    """Where a paper appeared.

    Attributes:
        id: short name in ASCII, `iclr`.
        name: in full, without year or number: `International Conference on Learning Representations`.
        abbreviation: as the field says it, `ICLR`.
        kind: what sort of venue it is.
        series: the venue or body that it belongs to, `ICLR` for an ICLR workshop; mostly empty.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
    name: Text
    abbreviation: Text
    kind: Literal["conference", "journal", "workshop", "preprint", "book", "thesis", "report", "other"]
    series: str = ""


class Entry(Model):
    """The BibTeX entry of a paper, in `catalog/bibliography/<year>.bib`; a paper without a year stands in `undated.bib`.

    Attributes:
        key: family name of the first author, year, first significant word of the title; ASCII, lower case.
        entry_type: `article`, `inproceedings`, ...
        title: casing as on the paper, without protecting braces.
        authors: BibTeX `author`, in order; empty only if the record says `authors_unknown`.
        year: of the publication; None if no source gives one.
        venue: BibTeX `booktitle`, `journal`, `howpublished`, `school` or `institution`: a name, abbreviation or id of the venue table.
        doi, arxiv, openreview: identifiers; BibTeX `doi`, `eprint` (with `archiveprefix = {arXiv}`), `x-openreview`.
        url: official page.
        pages, volume, number, publisher, note: as printed.
        source: BibTeX `x-source`: where these facts were read.
    """

    key: Key
    entry_type: Literal[
        "article", "inproceedings", "incollection", "book", "misc", "techreport", "phdthesis", "mastersthesis", "unpublished"
    ]
    title: Text
    authors: tuple[Person, ...] = ()
    year: Year | None = None
    venue: Venue | None = None
    doi: Doi | None = None
    arxiv: Arxiv | None = None
    openreview: OpenReview | None = None
    url: Url | None = None
    pages: Text | None = None
    volume: Text | None = None
    number: Text | None = None
    publisher: Text | None = None
    note: Text | None = None
    source: Text


class Settings(Model):
    """The survey's contrast settings; an empty list means unknown."""

    passes: Annotated[tuple[Passes, ...], Tags] = ()
    data: Annotated[tuple[Data, ...], Tags] = ()
    weights: Annotated[tuple[Weights, ...], Tags] = ()
    scope: Annotated[tuple[Scope, ...], Tags] = ()
    recovery: Annotated[tuple[Recovery, ...], Tags] = ()
    transfer: Annotated[tuple[Transfer, ...], Tags] = ()


class Taxonomy(Model):
    """Where a paper stands; an empty list means unknown or not applicable.

    Attributes:
        how_note: what `other` means in `how`; there if and only if `other` is.
    """

    speedup: Annotated[tuple[Speedup, ...], Tags] = ()
    granularity: Annotated[tuple[Granularity, ...], Tags] = ()
    when: Annotated[tuple[When, ...], Tags] = ()
    how: Annotated[tuple[How, ...], Tags] = ()
    how_note: Text | None = None
    fusion: Annotated[tuple[Fusion, ...], Tags] = ()
    structured_family: Annotated[tuple[StructuredFamily, ...], Tags] = ()
    settings: Settings = Settings()
    supervision: Annotated[tuple[Supervision, ...], Tags] = ()

    @model_validator(mode="after")
    def _note_goes_with_other(self) -> Self:
        if (How.OTHER in self.how) != (self.how_note is not None):
            raise ValueError("how_note stands beside `other` in how, and only there")
        return self


class ReferenceLink(Model):
    """A paper's link to a reference implementation.

    Attributes:
        implementation: `folder.name` of the module under `reference_impls`.
        relation: what the module is to the paper.
        differs: how paper and module differ, in a sentence; required for `variant` and `subject`, absent otherwise.
    """

    implementation: Module
    relation: Relation
    differs: Text | None = None

    @model_validator(mode="after")
    def _difference_is_stated(self) -> Self:
        needed = self.relation in (Relation.VARIANT, Relation.SUBJECT)
        if needed and self.differs is None:
            raise ValueError(f"differs is missing: a {self.relation} says in a sentence how paper and module differ")
        if not needed and self.differs is not None:
            raise ValueError(f"differs does not go with {self.relation}; allowed: only with variant, subject")
        return self

    def load(self) -> Callable[..., Any]:
        """Import the implementation and give its public entry, one of `ENTRY_POINTS`.

        Raises:
            ImportError: the module, or torch, is not installed.
            AttributeError: the module has no entry point.
        """
        module = importlib.import_module(f"reference_impls.{self.implementation}")
        for name in ENTRY_POINTS:
            if name in vars(module):
                entry: Callable[..., Any] = vars(module)[name]
                return entry
        raise AttributeError(f"{module.__name__} has none of the entry points {', '.join(ENTRY_POINTS)}")


class Measurement(Model):
    """A number that a source reports.

    Attributes:
        metric: what was measured, with its unit: `top-1 accuracy (%)`.
        value: the number.
        dataset: measured on.
        network: of.
        source: where the number was read.
    """

    metric: Text
    value: float
    dataset: Text
    network: Text
    source: Text


class Record(Model):
    """The Markdown record of a paper, `catalog/papers/<key>.md`: these fields between two lines `---`, then the summary.

    Attributes:
        key: the key of the BibTeX entry, and the name of the file.
        name: what the method is called, `SNIP`; None where it has no name.
        kind: a method, or what else.
        taxonomy: where the paper stands.
        networks, applications: families of networks and tasks that the paper deals with.
        evidence: where the tags of an axis were read; one for every axis that is not empty.
        references: links to reference implementations; one to the nearest is worked out where none is written.
        builds_on: keys of the papers that it says it extends.
        code: addresses of the authors' code.
        reported: numbers that the paper or another source reports.
        authors_unknown: True if no source gives an author list.
        summary: the body; two to five sentences, Markdown. Lines of a paragraph are joined.
    """

    key: Key
    name: Text | None = None
    kind: Kind = Kind.METHOD
    taxonomy: Taxonomy
    networks: Annotated[tuple[Network, ...], Tags] = ()
    applications: Annotated[tuple[Application, ...], Tags] = ()
    evidence: dict[str, Evidence] = {}
    references: tuple[ReferenceLink, ...] = ()
    builds_on: Annotated[tuple[Key, ...], Once] = ()
    code: Annotated[tuple[Url, ...], Once] = ()
    reported: tuple[Measurement, ...] = ()
    authors_unknown: bool = False
    summary: Text

    def tags(self, axis: str) -> tuple[Term, ...]:
        """The paper's values on an axis of `schema.terms.FACETS`."""
        if axis == "kind":
            return (self.kind,)
        if axis == "relation":
            return tuple(term for term in Relation if any(reference.relation == term for reference in self.references))
        holder: Any = self.taxonomy.settings if axis in SETTINGS else self if axis in ("networks", "applications") else self.taxonomy
        values: tuple[Term, ...] = getattr(holder, axis)
        return values

    def evidence_needed(self) -> set[str]:
        """The axes that are not empty; `settings` is one axis."""
        return {"settings" if axis in SETTINGS else axis for axis in AXES if self.tags(axis)}


class Paper(Record, Entry):
    """A paper: its BibTeX entry and its record, joined. Compares equal to a paper with the same fields."""

    @property
    def universal_speedup(self) -> bool:
        """Whether the speedup needs no special hardware or library: whole structures go."""
        return Speedup.STRUCTURED in self.taxonomy.speedup

    @property
    def specific_speedup(self) -> bool:
        """Whether the speedup needs hardware or libraries for sparse weights."""
        return any(speedup is not Speedup.STRUCTURED for speedup in self.taxonomy.speedup)

    @property
    def dynamic(self) -> bool:
        """Whether the network that runs is chosen per input."""
        return When.RUN_TIME in self.taxonomy.when

    @property
    def static(self) -> bool:
        """Whether one pruned network serves every input."""
        return any(when is not When.RUN_TIME for when in self.taxonomy.when)

    @property
    def multi_fusion(self) -> bool:
        """Whether pruning is joined with two or more other compression techniques."""
        return len(self.taxonomy.fusion) > 1

    def reference(self, relation: str | None = None) -> ReferenceLink | None:
        """The closest link: `implements` before `variant`, `subject`, `nearest`; or the first of one relation."""
        order = list(Relation)
        links = [link for link in self.references if relation in (None, link.relation)]
        return min(links, key=lambda link: order.index(link.relation), default=None)


class Size(Model):
    """What a reference implementation makes of a network, measured: a line of `catalog/measurements/sizes.jsonl`.

    Attributes:
        module: the implementation.
        network: the function of `reference_impls.zoo.networks` that builds the network.
        amount: what was asked, `sparsity 0.5`.
        parameters_before, parameters_after: numbers in all its parameters, zeros too.
        weight_sparsity: fraction of zeros among the weights of linear and convolution layers afterwards.
        macs_before, macs_after: multiply-accumulates for one example; those of zeros count, those that a network skips do not.
        bytes_before, bytes_after: of all parameters and buffers in memory.
        latency_ratio: time of a forward pass afterwards by the time before, both taken in turns; the median of rounds.
        rounds: how many rounds, each of which compares the fastest passes.
        date: of the measurement, YYYY-MM-DD.
        torch: version of PyTorch.
        processor: model name of the CPU; one thread.
    """

    module: Module
    network: Text
    amount: Text
    parameters_before: Count
    parameters_after: Count
    weight_sparsity: Annotated[float, Field(ge=0, le=1)]
    macs_before: Count
    macs_after: Count
    bytes_before: Count
    bytes_after: Count
    latency_ratio: Annotated[float, Field(gt=0)]
    rounds: Count
    date: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    torch: Text
    processor: Text


class ImplementationLink(Model):
    """A paper that links to an implementation."""

    key: Key
    relation: Relation
    differs: str | None = None


class Implementation(Model):
    """A reference implementation and the papers that link to it.

    Attributes:
        module: `folder.name` under `reference_impls`.
        papers: ordered by relation, then key.
    """

    module: Module
    papers: tuple[ImplementationLink, ...]

    @property
    def folder(self) -> str:
        """The folder under `reference_impls`."""
        return self.module.partition(".")[0]

    @property
    def name(self) -> str:
        """The module's name in its folder."""
        return self.module.partition(".")[2]
