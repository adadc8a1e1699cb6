import pytest

pytestmark = pytest.mark.browser


def ready(page):
    page.wait_for_selector("[data-field][data-ready]")


def test_the_whole_field_with_a_filter_in_the_address(visit, atlas):
    visitor = visit()
    page = visitor.go("lineage/")
    ready(page)
    papers = {paper.key: paper for paper in atlas.papers()}
    keys = page.eval_on_selector_all("[data-field] a", "links => links.map(link => link.dataset.key)")
    linked = {key for paper in papers.values() if paper.builds_on for key in (paper.key, *paper.builds_on)}
    assert set(keys) <= linked
    assert len(keys) == len(set(keys)) >= 0.9 * len(linked)  # those without a year have no place
    page.locator("[data-axis]").select_option("when=run_time")
    assert page.url.endswith("?when=run_time")
    shown = page.eval_on_selector_all("[data-field] a:not(.out)", "links => links.map(link => link.dataset.key)")
    assert set(shown) == {key for key in keys if "run_time" in papers[key].tags("when")}
    page.go_back()
    page.wait_for_function("() => !document.querySelector('[data-field] a.out')")


def test_pointing_at_a_paper_lights_its_line(visit, atlas):
    page = visit().go("lineage/")
    ready(page)
    papers = {paper.key: paper for paper in atlas.papers()}
    later = next(paper for paper in papers.values() if paper.year and paper.builds_on and papers[paper.builds_on[0]].year)
    page.locator(f"[data-field] a[data-key={later.key}]").focus()
    lit = page.eval_on_selector_all("[data-field] a.lit", "links => links.map(link => link.dataset.key)")
    assert {later.key, later.builds_on[0]} <= set(lit)
    assert len(lit) < len(papers)


def test_closer_farther_everything(visit):
    page = visit().go("lineage/")
    ready(page)
    width = "() => Number(document.querySelector('[data-field] svg').getAttribute('viewBox').split(' ')[2])"
    page.get_by_role("button", name="Everything").click()
    everything = page.evaluate(width)
    page.get_by_role("button", name="Closer").click()
    closer = page.evaluate(width)
    assert closer < everything
    page.get_by_role("button", name="Farther").click()
    assert page.evaluate(width) > closer
    page.get_by_role("button", name="Everything").click()
    assert page.evaluate(width) == everything


def test_a_paper_page_draws_its_neighbours(visit, atlas):
    paper = next(paper for paper in atlas.papers() if paper.builds_on)
    page = visit().go(f"papers/{paper.key}/")
    assert page.locator(".drawn g").count() == 1 + len(page.locator(".lineage .paper-line").all())
