import pytest

from schema.terms import FACETS
from tests.site import made_up
from tools.site import plates


@pytest.fixture(scope="module")
def papers():
    return made_up.papers(200)


def test_a_matrix_counts_papers_that_carry_both(papers):
    for row in plates.matrix(papers, "when", "speedup"):
        for cell in row:
            both = [paper for paper in papers if cell.row in paper.tags("when") and cell.column in paper.tags("speedup")]
            assert cell.papers == len(both)
            assert cell.implemented == sum(paper.references[0].relation == "implements" for paper in both)
            assert cell.core <= cell.size <= 1


def test_areas_stand_for_papers(papers):
    cells = [cell for row in plates.matrix(papers, "when", "speedup") for cell in row]
    fullest = max(cells, key=lambda cell: cell.papers)
    assert fullest.size == 1
    for cell in cells:
        assert cell.size**2 * fullest.papers == pytest.approx(cell.papers)
        assert cell.core**2 * fullest.papers == pytest.approx(cell.implemented)


def test_a_cube_counts_papers_that_carry_all_three(papers):
    rows = plates.cube(papers, "how", "speedup", "when")
    fullest = max(cell.papers for row in rows for panel in row for cell in panel)
    carried = {tag for paper in papers for tag in paper.tags("how") if paper.tags("speedup") and paper.tags("when")}
    assert [row[0][0].row for row in rows] == [term for term in FACETS["how"] if term in carried]
    for row in rows:
        assert [panel[0].panel for panel in row] == list(FACETS["speedup"])
        for panel in row:
            assert [cell.column for cell in panel] == list(FACETS["when"])
            for cell in panel:
                axes = {"how": cell.row, "speedup": cell.panel, "when": cell.column}
                carrying = [paper for paper in papers if all(term in paper.tags(axis) for axis, term in axes.items())]
                assert cell.papers == len(carrying)
                assert cell.implemented == sum(paper.references[0].relation == "implements" for paper in carrying)
                assert cell.size**2 * fullest == pytest.approx(cell.papers)
    assert plates.cube([], "how", "speedup", "when") == []


@pytest.mark.parametrize(("implemented", "papers", "share"), [(0, 7, 0), (1, 100, 1), (1, 5, 1), (3, 5, 3), (5, 5, 5), (0, 0, 0)])
def test_a_share_is_in_fifths_and_never_hides_the_first(implemented, papers, share):
    assert plates.Cell(None, None, papers, implemented, 0, 0).share == share


def test_a_histogram_has_a_bar_for_every_year(papers):
    span = plates.span(papers)
    bars = plates.histogram(papers, span)
    assert [bar.year for bar in bars] == list(range(span[0], span[1] + 1))
    assert sum(bar.papers for bar in bars) == sum(paper.year is not None for paper in papers)
    assert max(bar.height for bar in bars) == 1
    assert plates.histogram([], plates.span([])) == []


def test_empty_rows_and_columns_go():
    def cell(papers):
        return plates.Cell(None, None, papers, 0, 0, 0)

    left = plates.occupied([[cell(0), cell(2)], [cell(0), cell(0)], [cell(0), cell(1)]])
    assert [[cell.papers for cell in row] for row in left] == [[2], [1]]
    assert plates.occupied([[cell(0)]]) == []


def test_both_trees_stand_in_the_order_of_their_sections():
    trees = plates.trees()
    assert set(trees) == {"Cheng, Zhang & Shi", "He & Xiao"}
    assert [section for section, *_ in trees["He & Xiao"]][:4] == ["2.1.1", "2.1.2", "2.2.1", "2.2.2"]
    assert len(trees["He & Xiao"]) == 19
    for sections in trees.values():
        numbers = [[int(part) for part in section.split(".")] for section, *_ in sections]
        assert numbers == sorted(numbers)
        assert all(term in list(FACETS[axis]) for _, axis, term in sections)
