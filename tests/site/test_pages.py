"""Every kind of page, used as a person would."""

import re

import pytest

from schema.terms import FACETS
from tests.site.made_up import HOSTILE
from tools.site.pages import SHOWN
from tools.site.plates import implemented

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def hostile(atlas):
    return next(paper for paper in atlas.papers() if paper.title == HOSTILE)


@pytest.fixture(scope="session")
def kinds(atlas, hostile):
    """One address of every kind of page."""
    module = atlas.implementations()[0].module
    return [
        "",
        "browse/",
        f"papers/{hostile.key}/",
        "taxonomy/",
        "taxonomy/how/",
        "taxonomy/how/sensitivity/",
        "implementations/",
        f"implementations/{module}/",
        "docs/cookbook/",
        "docs/cli/",
        "docs/api/implementations/",
    ]


def test_no_complaint_no_stranger_no_overflow(visit, kinds):
    visitor = visit()
    for path in kinds:
        for width in (360, 768, 1440):
            visitor.page.set_viewport_size({"width": width, "height": 800})
            page = visitor.go(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
        assert page.locator("h1").count() == 1, path
        assert page.title()


def test_a_hostile_title_is_text_everywhere(visit, atlas, hostile):
    visitor = visit()
    page = visitor.go(f"papers/{hostile.key}/")
    assert page.locator("h1").inner_text() == HOSTILE
    assert page.title() == f"{HOSTILE} · Pruning Atlas"
    assert page.locator(".called strong").inner_text() == HOSTILE
    assert page.locator(".summary p").inner_text() == HOSTILE
    assert "<b>Mallory</b>" in page.locator(".authors").inner_text()
    assert page.locator(".authors b").count() == 0
    visitor.go(f"browse/?years={hostile.year}-{hostile.year}")
    assert page.locator(f"[data-key={hostile.key}] a").first.text_content() == HOSTILE
    listed = 0
    for axis in FACETS:
        for value in hostile.tags(axis):
            newest = atlas.papers(**{axis: value})[::-1]
            newest.sort(key=lambda paper: not implemented(paper))
            visitor.go(f"taxonomy/{axis}/{value}/")
            expected = hostile in newest[:SHOWN]
            assert page.locator(".paper-line-title a", has_text=HOSTILE).count() == expected, (axis, value)
            listed += expected
    assert listed >= 5
    assert page.evaluate("document.querySelectorAll('a[href^=\"javascript\"]').length") == 0


def test_bibtex_is_copied(visit, atlas, hostile):
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    page = visitor.go(f"papers/{hostile.key}/")
    page.locator("#cite .copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").strip() == atlas.bibtex(hostile.key).strip()


def test_a_tag_says_what_it_means(visit, atlas):
    paper = next(paper for paper in atlas.papers() if paper.tags("how"))
    term = paper.tags("how")[0]
    page = visit().go(f"papers/{paper.key}/")
    link = page.locator(f"a[aria-describedby='about-how-{term}']")
    definition = page.locator(f"#about-how-{term}")
    assert not definition.is_visible()
    link.focus()
    assert definition.is_visible()
    assert definition.inner_text() == term.definition
    box = definition.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    page.keyboard.press("Escape")
    assert not definition.is_visible()
    page.mouse.move(5, 5)
    link.blur()
    link.hover()
    assert definition.is_visible()
    link.click()
    page.wait_for_url(re.compile(f"taxonomy/how/{term}/$"))
    assert page.locator(".value-main .lead").inner_text() == term.definition


def test_dark_and_light(visit):
    visitor = visit(color_scheme="light")
    page = visitor.go("")
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.get_by_role("button", name="Switch to the dark theme").click()
    dark = page.evaluate(color)
    assert dark != light
    visitor.go("taxonomy/")
    assert page.evaluate(color) == dark
    page.get_by_role("button", name="Switch to the light theme").click()
    assert page.evaluate(color) == light
    assert visit(color_scheme="dark").go("").evaluate(color) == dark


def test_a_disc_of_the_plate_leads_to_its_papers(visit, atlas):
    page = visit().go("")
    page.locator(".plate a.cell").first.click()
    page.wait_for_selector(".browse[data-ready]")
    asked = dict(pair.split("=") for pair in page.url.partition("?")[2].split("&"))
    assert int(page.locator("[data-total]").inner_text()) == len(atlas.keys(**asked)) > 0


@pytest.mark.parametrize("width", [360, 1280])
def test_a_cell_of_the_cube_leads_to_its_papers(visit, atlas, width):
    visitor = visit()
    visitor.page.set_viewport_size({"width": width, "height": 800})
    page = visitor.go("")
    boxes = [cell.bounding_box() for cell in page.locator(".cube a.dot").all()[:40]]
    assert boxes
    assert all(min(box["width"], box["height"]) >= 24 for box in boxes)
    # the names and one whole panel are in sight at once, however narrow
    panel = page.locator(".cube thead th[colspan]").first.bounding_box()
    assert panel["x"] + panel["width"] <= width
    cell = page.locator(".cube a.dot").last
    says = cell.get_attribute("aria-label")
    cell.click()
    page.wait_for_selector(".browse[data-ready]")
    asked = dict(pair.split("=") for pair in page.url.partition("?")[2].split("&"))
    assert set(asked) == {"how", "speedup", "when"}
    found = int(page.locator("[data-total]").inner_text())
    assert found == len(atlas.keys(**asked)) == int(says.split()[0]) > 0
    assert f", {len(atlas.keys(**asked, relation='implements'))} implemented" in says


def test_a_term_shows_its_formula_as_mathml(visit):
    visitor = visit()
    page = visitor.go("taxonomy/how/sensitivity/")
    drawn = page.locator(".formula math")
    box = drawn.bounding_box()
    assert box["height"] > 30, "a fraction is two lines high"
    fractions = page.locator(".formula mfrac")
    above, below = (fractions.first.locator(":scope > *").nth(at).bounding_box() for at in (0, 1))
    assert above["y"] + above["height"] <= below["y"] + 2
    assert "lee2019snip" in page.locator(".formula figcaption").inner_text()
    visitor.page.set_viewport_size({"width": 360, "height": 800})
    visitor.go("taxonomy/structured_family/filters/")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    visitor.go("taxonomy/how/other/")
    assert page.locator(".formula").count() == 0


def test_searching_from_anywhere(visit, atlas):
    visitor = visit()
    page = visitor.go("taxonomy/")
    page.keyboard.press("/")
    page.keyboard.type("rethinking")
    page.keyboard.press("Enter")
    page.wait_for_selector(".browse[data-ready]")
    assert int(page.locator("[data-total]").inner_text()) == len(atlas.keys(text="rethinking"))


def test_lineage_leads_both_ways(visit, atlas):
    later = next(paper for paper in atlas.papers() if paper.builds_on)
    page = visit().go(f"papers/{later.key}/")
    page.locator(".lineage a").first.click()
    page.wait_for_url(re.compile(f"papers/{later.builds_on[0]}/"))
    assert page.locator(f".lineage a[href$='papers/{later.key}/']").count() == 1


def test_relations_are_told_apart(visit, atlas):
    visitor = visit()
    words = {
        "implements": "is this paper's own algorithm",
        "nearest": "Not implemented yet; nearest:",
        "variant": "A variant of",
        "subject": "Speaks of what",
    }
    for relation, text in words.items():
        paper = atlas.papers(relation=relation)[0]
        page = visitor.go(f"papers/{paper.key}/")
        card = page.locator(".implementation-card")
        assert text in card.inner_text()
        if paper.references[0].differs:
            assert paper.references[0].differs in card.inner_text()


def test_a_page_that_is_not_there(visit):
    visitor = visit()
    response = visitor.page.goto(visitor.address + "papers/nobody1999nothing/")
    assert response.status == 404
    assert "No page has this address" in visitor.page.locator("main").inner_text()
    visitor.page.get_by_role("link", name="Browse the papers").click()
    visitor.page.wait_for_selector(".browse[data-ready]")
    assert all("404" in complaint for complaint in visitor.complaints)
    visitor.complaints.clear()  # the 404 itself


def test_a_slip_of_the_finger_still_finds_the_name(visit, atlas):
    paper = next(paper for paper in atlas.papers() if paper.name and paper.name.startswith("Prune3") and len(paper.name) == 8)
    slip = paper.name.replace("un", "nu")  # two letters swapped
    page = visit().go("taxonomy/")
    page.keyboard.press("/")
    page.keyboard.type(slip)
    options = page.get_by_role("option")
    options.first.wait_for()
    assert paper.name in options.first.inner_text()
    field = page.get_by_role("combobox")
    assert field.get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowDown")
    assert options.first.get_attribute("aria-selected") == "true"
    assert field.get_attribute("aria-activedescendant") == options.first.get_attribute("id")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(f"papers/{paper.key}/"))


def test_how_near_a_name_is(visit):
    page = visit().go("")
    near = "document.querySelector('script[type=module]').src.replace('site.js', 'near.js')"
    distance = f"([typed, name]) => import({near}).then((near) => near.distance(typed, name))"
    far = {
        ("synflow", "synflow"): 0,
        ("syn", "synflow"): 1,
        ("synfow", "synflow"): 2,  # a letter missing
        ("snyflow", "synflow"): 2,  # two letters swapped count as one slip
        ("synflows", "synflow"): 2,
        ("sinflow", "synflow"): 2,
        ("snp", "snip"): None,  # too short to guess
        ("wanda", "synflow"): None,
    }
    for pair, expected in far.items():
        assert page.evaluate(distance, list(pair)) == (expected if expected is not None else float("inf")), pair


def test_the_name_itself_comes_first(visit, atlas):
    paper = next(paper for paper in atlas.papers() if paper.name == "Prune12")  # Prune120 and others begin so
    page = visit().go("")
    page.locator("#hero-text").fill("prune12")
    page.get_by_role("option").first.wait_for()
    assert page.get_by_role("option").first.inner_text().startswith("Prune12 ")
    assert paper.title in page.get_by_role("option").first.inner_text()
    page.keyboard.press("Escape")
    assert page.get_by_role("option").count() == 0


def test_terms_of_the_taxonomy_are_suggested(visit):
    page = visit().go("implementations/")
    page.locator("#masthead-text").fill("magnitud")
    page.get_by_role("option", name="How to prune").click()
    page.wait_for_url(re.compile("taxonomy/how/magnitude/"))
    assert page.locator("h1").inner_text() == "Magnitude"
