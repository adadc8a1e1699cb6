import pytest

from tests.site import made_up
from tools.site import lineage


@pytest.fixture(scope="module")
def papers():
    return sorted(made_up.papers(300), key=lambda paper: (paper.year is None, paper.year, paper.key))


def test_every_recorded_line_is_drawn_once(papers):
    nodes, edges = lineage.field(papers)
    year = {paper.key: paper.year for paper in papers}
    expected = {
        (earlier, paper.key) for paper in papers for earlier in paper.builds_on if paper.year is not None and year[earlier] is not None
    }
    drawn = [(papers[nodes[earlier][0]].key, papers[nodes[later][0]].key) for earlier, later in edges]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == expected
    assert all(papers[at].year == when for at, when, _ in nodes)


def test_no_two_papers_stand_in_one_place(papers):
    nodes, _ = lineage.field(papers)
    assert len({(year, row) for _, year, row in nodes}) == len(nodes)
    assert all(row >= 0 for *_, row in nodes)


def test_a_line_of_papers_is_straight():
    a, b, c = (paper.model_copy(update={"year": 2000 + at, "builds_on": ()}) for at, paper in enumerate(made_up.papers(3)))
    b = b.model_copy(update={"builds_on": (a.key,)})
    c = c.model_copy(update={"builds_on": (b.key,)})
    nodes, edges = lineage.field([a, b, c])
    assert nodes == [[0, 2000, 0], [1, 2001, 0], [2, 2002, 0]]
    assert edges == [[0, 1], [1, 2]]


def test_the_small_drawing_stays_inside_its_frame(papers):
    self, *others = papers[:30]
    for earlier, later in (([], others[:1]), (others[:1], []), (others[:3], others[3:20])):
        drawing = lineage.around(self, earlier, later)
        assert drawing.nodes[0].paper is self
        assert all(0 <= node.x <= lineage.WIDTH - lineage.BOX and 16 <= node.y <= drawing.height - 16 for node in drawing.nodes)
        assert len(drawing.edges) == len(drawing.nodes) - 1 == min(6, len(earlier)) + min(6, len(later))
        assert len({(node.x, node.y) for node in drawing.nodes}) == len(drawing.nodes)
        assert drawing.hidden == max(0, len(later) - 6)
    assert lineage.around(self, [], []) is None
