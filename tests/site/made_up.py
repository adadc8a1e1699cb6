"""Made-up papers, as many as wanted: the same for the same seed."""

import random
from pathlib import Path

from catalog.store import store
from schema.records import Paper, Person, ReferenceLink, Settings, Size, Taxonomy, Venue
from schema.terms import AXES, Evidence, How, Kind, Relation

IMPLEMENTATIONS = Path(__file__).parents[2] / "reference_impls"
HOSTILE = "<script>alert(1)</script> | [x](javascript:1)"


def _words(text):
    return text.split()


_ADJECTIVES = _words("structured sparse global layer-wise dynamic robust Bayesian iterative one-shot transferable hardware-aware gradual")
_NOUNS = _words("pruning networks transformers filters channels masks sensitivity flow tickets criteria budgets sparsity rewinding heads")
_VERBS = _words("Learning Rethinking Towards Accelerating Understanding Revisiting Scaling Improving Predicting Preserving")
_GIVEN = _words("Ada Łukasz Søren José Mei Wei Anna Émile Priya Noor Yann Zoë")
_FAMILY = _words("Lovelace Müller García Chen Nowak Öztürk Dvořák Silva Haddad Kim Okafor Nguyễn")
_TEXT = _words(
    "the method removes weights that matter least and keeps accuracy where earlier criteria fail on large models because a loss "
    "changes smoothly with every gate so that one backward pass suffices it needs no data but a few examples and costs little"
)

_VENUES = [
    Venue(id=short.lower(), name=name, abbreviation=short, kind="conference")
    for short, name in (("ICLR", "International Conference on Learning Representations"), ("CVPR", "Computer Vision & Pattern Recognition"))
] + [Venue(id="arxiv", name="arXiv", abbreviation="arXiv", kind="preprint")]


def modules() -> list[str]:
    """Implementations that stand in the tree."""
    folders = ("before_training", "during_training", "after_training", "run_time", "fusion")
    return sorted(f"{f}.{path.stem}" for f in folders for path in (IMPLEMENTATIONS / f).glob("*.py") if path.stem != "__init__")


def papers(count: int, seed: int = 0) -> list[Paper]:
    """`count` papers with plausible tags; the first is hostile."""
    draw = random.Random(seed)
    known = modules()
    made: list[Paper] = []
    for number in range(count):
        year = None if draw.random() < 0.01 else min(2026, 1989 + int(38 * draw.random() ** 0.35))
        tags = {axis: _some(draw, list(terms), axis) for axis, terms in AXES.items()}
        settings = {axis: tags.pop(axis) for axis in ("passes", "data", "weights", "scope", "recovery", "transfer")}
        networks, applications = tags.pop("networks"), tags.pop("applications")
        filled = [axis for axis, terms in {**tags, "networks": networks, "applications": applications}.items() if terms]
        filled += ["settings"] if any(settings.values()) else []
        relation = (
            Relation.IMPLEMENTS if number < len(known) else draw.choice([Relation.NEAREST] * 6 + [Relation.VARIANT, Relation.SUBJECT])
        )
        title = HOSTILE if number == 0 else _title(draw)
        family = draw.choice(_FAMILY)
        made.append(
            Paper(
                key=f"author{year or 'undated'}made{number}",
                entry_type="inproceedings",
                title=title,
                authors=(
                    ()
                    if number % 97 == 5
                    else (
                        Person(given="<b>Mallory</b>" if number == 0 else draw.choice(_GIVEN), family=family),
                        *(Person(given=g, family=draw.choice(_FAMILY)) for g in draw.sample(_GIVEN, draw.randint(0, 6))),
                    )
                ),
                year=year,
                venue=None if draw.random() < 0.1 else draw.choice(_VENUES),
                doi=f"10.1000/{number}" if draw.random() < 0.3 else None,
                arxiv=f"{20 + number % 6}{1 + number % 12:02}.{number:05}" if draw.random() < 0.6 else None,
                url=f"https://example.org/{number}",
                source="made up",
                name=HOSTILE if number == 0 else f"Prune{number}" if draw.random() < 0.6 else None,
                kind=Kind.METHOD if draw.random() < 0.85 else draw.choice(list(Kind)),
                taxonomy=Taxonomy(**tags, settings=Settings(**settings), how_note="something else" if How.OTHER in tags["how"] else None),
                networks=networks,
                applications=applications,
                evidence=dict.fromkeys(filled, Evidence.ABSTRACT),
                references=(
                    ReferenceLink(
                        implementation=known[number] if number < len(known) else draw.choice(known),
                        relation=relation,
                        differs="It ranks <i>whole</i> filters." if relation in (Relation.VARIANT, Relation.SUBJECT) else None,
                    ),
                ),
                builds_on=tuple({draw.choice(made).key for _ in range(draw.randint(0, 2))}) if made else (),
                code=(f"https://example.org/code/{number}",) if draw.random() < 0.4 else (),
                summary=HOSTILE if number == 0 else " ".join(draw.choices(_TEXT, k=draw.randint(30, 70))).capitalize() + ".",
            )
        )
    return made


def database(path: Path, count: int, seed: int = 0) -> Path:
    """A catalog of made-up papers."""
    store(papers(count, seed), _VENUES, path, sizes())
    return path


def sizes() -> list[Size]:
    """Measured sizes of the first two implementations."""
    draw = random.Random(1)
    return [
        Size(
            module=module,
            network="resnet8",
            amount="sparsity 0.5",
            parameters_before=19810,
            parameters_after=draw.randint(4000, 9000),
            weight_sparsity=0.25,
            macs_before=193344,
            macs_after=draw.randint(40000, 90000),
            bytes_before=80656,
            bytes_after=draw.randint(20000, 40000),
            latency_ratio=round(draw.uniform(0.5, 1.5), 3),
            rounds=9,
            date="2026-11-21",
            torch="2.13.0",
            processor="made up",
        )
        for module in modules()[:2]
    ]


def _some(draw, terms, axis):
    empty = {"fusion": 0.85, "structured_family": 0.7, "transfer": 0.8}.get(axis, 0.15)
    if draw.random() < empty:
        return ()
    favourites = terms[: max(2, len(terms) // 3)]
    chosen = {draw.choice(favourites if draw.random() < 0.7 else terms) for _ in range(1 if draw.random() < 0.75 else 2)}
    return tuple(term for term in terms if term in chosen)


def _title(draw):
    first, second = draw.sample(_NOUNS, 2)
    return f"{draw.choice(_VERBS)} {draw.choice(_ADJECTIVES)} {first} for {draw.choice(_ADJECTIVES)} {second} & {draw.choice(_NOUNS)}"
