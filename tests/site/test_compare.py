"""Papers side by side."""

import re

import pytest

pytestmark = pytest.mark.browser


def ready(page):
    page.wait_for_selector("[data-compared][data-ready]")


def compared(page):
    return page.eval_on_selector_all("[data-compared] thead [data-key]", "cells => cells.map(cell => cell.dataset.key)")


def test_two_chosen_on_the_browse_page_stand_side_by_side(visit, atlas):
    page = visit().go("browse/?when=run_time&sort=oldest")
    first, second = atlas.papers(when="run_time")[:2]
    for paper in (first, second):
        page.locator(f"[data-key={paper.key}] [data-compare]").click()
    page.get_by_role("link", name="Compare 2").click()
    ready(page)
    assert compared(page) == [first.key, second.key]
    row = page.locator("[data-compared] tr", has=page.get_by_role("rowheader", name="When to prune"))
    for at, paper in enumerate((first, second)):
        assert row.locator("td").nth(at).inner_text() == ", ".join(term.title for term in paper.tags("when"))
    assert ("differs" in (row.get_attribute("class") or "")) == (first.tags("when") != second.tags("when"))
    module = page.locator("[data-compared] tr", has=page.get_by_role("rowheader", name="Implementation")).locator("a").first
    assert module.get_attribute("href").endswith(f"implementations/{first.references[0].implementation}/")


def test_a_third_by_name_and_one_taken_out(visit, atlas):
    first, second, third = [paper for paper in atlas.papers() if paper.name and paper.name.startswith("Prune")][:3]
    page = visit().go(f"compare/?papers={first.key},{second.key}")
    ready(page)
    page.locator("#add").fill(third.name)
    page.get_by_role("option").first.click()
    page.wait_for_url(re.compile(third.key))
    page.wait_for_selector(f"[data-compared] [data-key={third.key}]")
    assert compared(page) == [first.key, second.key, third.key]
    page.get_by_role("button", name=f"Take out {first.name}").click()
    page.wait_for_function("() => document.querySelectorAll('[data-compared] thead [data-key]').length === 2")
    assert compared(page) == [second.key, third.key]
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('[data-compared] thead [data-key]').length === 3")


def test_never_more_than_four(visit, atlas):
    page = visit().go("browse/")
    buttons = page.locator("[data-compare]")
    for at in range(5):
        buttons.nth(at).click()
    assert page.locator("[data-compare][aria-pressed=true]").count() == 4
    keys = list(atlas)[:6]
    page.goto(page.url.split("browse/")[0] + f"compare/?papers={','.join([*keys, 'nobody1999'])}")
    ready(page)
    assert compared(page) == keys[:4]
    assert not page.locator("#add").is_visible()


def test_a_paper_page_puts_its_paper_into_the_comparison(visit, atlas):
    paper = atlas.papers(relation="implements")[1]
    visitor = visit()
    page = visitor.go(f"papers/{paper.key}/")
    page.locator(f"[data-compare={paper.key}]").click()
    visitor.go("taxonomy/")
    assert page.get_by_role("complementary", name="Chosen for comparison").is_visible()
    page.get_by_role("link", name="Compare with").click()
    ready(page)
    assert compared(page) == [paper.key]


def test_measured_numbers_stand_side_by_side_and_none_is_invented(visit, atlas):
    sizes = atlas.sizes()
    own = {paper.references[0].implementation: paper.key for paper in atlas.papers(relation="implements")}
    first, second = sizes
    other = next(module for module in own if module not in sizes)
    page = visit().go(f"compare/?papers={own[first]},{own[second]},{own[other]}")
    ready(page)

    def cells(title):
        return page.locator("[data-compared] tr", has=page.get_by_role("rowheader", name=title, exact=True)).locator("td").all_inner_texts()

    measured = [sizes[first], sizes[second]]
    assert cells("Measured on") == ["resnet8, sparsity 0.5"] * 2 + [""]
    assert cells("Parameters") == [f"19,810 → {size.parameters_after:,}" for size in measured] + [""]
    assert cells("Multiply-accumulates") == [f"193,344 → {size.macs_after:,}" for size in measured] + [""]
    assert cells("Zeros among the weights") == ["25 %"] * 2 + [""]
    assert cells("Time of a forward pass") == [f"× {size.latency_ratio:.2f}" for size in measured] + [""]
    page.goto(page.url.partition("?")[0] + f"?papers={own[other]}")
    ready(page)
    assert page.get_by_role("rowheader", name="Measured on").count() == 0
