"""The columns and the index of words hold what the catalog holds."""

import json
import math
import re
import sqlite3
import unicodedata

import pytest

from catalog import Catalog
from schema.terms import FACETS
from tests.site import made_up
from tools.site import facets

PAPERS = 1100  # more than two files of rows


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return made_up.database(tmp_path_factory.mktemp("facets") / "catalog.sqlite", PAPERS)


@pytest.fixture(scope="module")
def atlas(database):
    with Catalog.open(database) as opened:
        yield opened


@pytest.fixture(scope="module")
def papers(atlas):
    return atlas.papers()


def test_columns_give_every_tag_back(papers):
    columns = json.loads(json.dumps(facets.columns(papers)))
    assert columns["count"] == PAPERS
    assert columns["years"] == [paper.year for paper in papers]
    for axis in FACETS:
        column = columns["axes"][axis]
        for paper, combination in zip(papers, column["column"], strict=True):
            assert [column["values"][value] for value in column["sets"][combination]] == [str(tag) for tag in paper.tags(axis)]


def test_rows_come_in_chunks_in_the_catalogs_order(atlas, database, papers, tmp_path):
    facets.write(atlas, database, papers, tmp_path, tmp_path / "records")
    rows = [row for number in range(3) for row in json.loads((tmp_path / "papers" / f"{number}.json").read_text(encoding="utf-8"))]
    assert [row[0] for row in rows] == list(atlas)
    assert [row[1] for row in rows] == [paper.title for paper in papers]
    assert not (tmp_path / "papers" / "3.json").exists()
    assert json.loads((tmp_path / "keys.json").read_text(encoding="utf-8")) == list(atlas)
    described = json.loads((tmp_path / "implementations.json").read_text(encoding="utf-8"))
    assert list(described) == [implementation.module for implementation in atlas.implementations()]


def _ranked(index, shards, words, count):
    """bm25 as its definition has it, over the exported index."""
    lengths = index["lengths"]
    average = sum(lengths) / count
    phrases = []
    for word in words:
        found = {}
        for shard in shards:
            for term, (numbers, weights) in shard.items():
                if term.startswith(word):
                    for number, weight in zip(numbers, weights, strict=True):
                        found[number] = found.get(number, 0) + weight
        phrases.append(found)
    scores = {}
    for paper in set.intersection(*map(set, phrases)):
        score = 0.0
        for found in phrases:
            rarity = math.log((count - len(found) + 0.5) / (len(found) + 0.5))
            frequency = found[paper]
            rarity = rarity if rarity > 0 else 1e-6
            score += rarity * ((frequency * (1.2 + 1)) / (frequency + 1.2 * (1 - 0.75 + 0.75 * lengths[paper] / average)))
        scores[paper] = score
    return sorted(scores, key=lambda paper: (-scores[paper], paper))


@pytest.mark.parametrize("text", ["pruning", "sparse net", "Łukasz müller", "alert", "o", "rethinking layer-wise"])
def test_the_index_ranks_as_the_catalog(atlas, database, text):
    with sqlite3.connect(database) as connection:
        index, shards = facets.words(connection)
    folded = "".join(character for character in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(character))
    found = _ranked(index, shards, re.findall(r"[^\W_]+", folded), PAPERS)
    keys = list(atlas)
    assert [keys[paper] for paper in found] == atlas.keys(text=text)


def test_a_word_stands_in_the_shard_of_its_first_letters(database):
    with sqlite3.connect(database) as connection:
        index, shards = facets.words(connection)
    assert sorted(index["shards"].values()) == list(range(len(shards)))
    for letters, number in index["shards"].items():
        assert all(term[: facets.SHARD_LETTERS] == letters for term in shards[number])
