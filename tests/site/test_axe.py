"""The guidelines for accessible pages, as axe-core reads them: every kind of page, light and dark, narrow and wide."""

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.browser

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}


DRAWN = {"compare": "[data-compared] tbody tr", "lineage": "[data-field] circle"}
"""Kind of page -> what its script draws last."""


@pytest.fixture(scope="session")
def kinds(atlas):
    """Kind of page -> one address of it, the fullest there is."""
    own = atlas.papers(relation="implements")
    paper = max(own, key=lambda paper: (bool(paper.builds_on), len(paper.tags("how"))))
    return {
        "home": "",
        "browse": "browse/?when=run_time&text=pruning",
        "nothing found": "browse/?text=nobodywroteaboutthis",
        "paper": f"papers/{paper.key}/",
        "implementation": f"implementations/{paper.references[0].implementation}/",
        "implementations": "implementations/",
        "taxonomy": "taxonomy/",
        "axis": "taxonomy/how/",
        "value": "taxonomy/how/loss_change/",
        "compare": "compare/?papers=" + ",".join(paper.key for paper in own[:2]),
        "lineage": "lineage/",
        "documentation": "docs/cookbook/",
        "interface": "docs/api/core/",
    }


def violations(page):
    """What axe finds, one line each; the run counts only if axe could check the page at all."""
    found = Axe().run(page, options=RULES).response
    assert len(found["passes"]) > 15, "axe checked next to nothing"
    return [f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in found["violations"] for node in rule["nodes"]]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_kind_of_page_violates_a_guideline(visit, kinds, scheme, width):
    visitor = visit(color_scheme=scheme, reduced_motion="reduce")
    visitor.page.set_viewport_size({"width": width, "height": 900})
    found = {}
    for kind, path in kinds.items():
        page = visitor.go(path)
        if kind in DRAWN:
            page.locator(DRAWN[kind]).first.wait_for()
        found[kind] = violations(page)
    assert found == {kind: [] for kind in kinds}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_opens_violates_no_guideline(visit, kinds, scheme):
    visitor = visit(color_scheme=scheme, reduced_motion="reduce")
    page = visitor.go("taxonomy/")
    page.keyboard.press("/")
    page.keyboard.type("prune1")
    page.get_by_role("option").first.wait_for()
    assert violations(page) == []
    page = visitor.go(kinds["paper"])
    page.locator(".facts .tag a").first.focus()
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 900})
    page = visitor.go(kinds["browse"])
    page.locator("[data-facets-open]").click()
    page.locator(".browse[data-filtering]").wait_for()
    assert violations(page) == []
