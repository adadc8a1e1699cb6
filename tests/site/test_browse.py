"""The browse page, used as a person would; what it finds must be what the catalog finds."""

import csv
import io
import json
import random
import re
from urllib.parse import urlencode

import pytest

from schema.terms import FACETS
from tools import formats

pytestmark = pytest.mark.browser


def settled(page):
    page.wait_for_selector(".browse[data-ready]:not([data-busy])")


def total(page):
    return int(page.locator("[data-total]").inner_text().replace(",", ""))


def shown_counts(page):
    return page.evaluate(
        """() => {
          const counts = {};
          for (const box of document.querySelectorAll("#facets input[type=checkbox]")) {
            (counts[box.name] ??= {})[box.value] = Number(box.parentElement.querySelector("[data-count]").textContent);
          }
          return counts;
        }"""
    )


def shown_keys(page):
    while page.locator("[data-more]").is_visible():
        before = page.locator("[data-results] [data-key]").count()
        page.locator("[data-more] button").click()
        page.wait_for_function("before => document.querySelectorAll('[data-results] [data-key]').length > before", arg=before)
    return page.eval_on_selector_all("[data-results] [data-key]", "rows => rows.map(row => row.dataset.key)")


def box(page, axis, value):
    return page.locator(f"#facets input[name={axis}][value={value}]")


def choose(page, axis, value):
    """Open the facet if it is closed, and click the value's label."""
    facet = page.locator(f"[data-axis={axis}]")
    if facet.get_attribute("open") is None:
        facet.locator("summary").click()
    facet.locator(f"label:has(input[value={value}])").click()
    settled(page)


def random_question(draw):
    axes = {}
    for axis in draw.sample(list(FACETS), draw.randint(1, 3)):
        axes[axis] = draw.sample([str(term) for term in FACETS[axis]], draw.randint(1, min(3, len(FACETS[axis]))))
    first = draw.randint(1995, 2024)
    years = (first, draw.randint(first, 2026)) if draw.random() < 0.5 else None
    text = draw.choice(["pruning", "spar", "muller", "networks filters", "rethinking global", None, None])
    return {"text": text, "years": years, **axes}


def question_string(question):
    pairs = [(axis, value) for axis, values in question.items() if axis in FACETS for value in values]
    if question["text"]:
        pairs.append(("text", question["text"]))
    if question["years"]:
        pairs.append(("years", "-".join(map(str, question["years"]))))
    return urlencode(pairs)


def test_counts_and_papers_are_the_catalogs_for_ten_random_questions(visit, atlas):
    visitor = visit()
    for seed in range(10):
        question = random_question(random.Random(seed))
        page = visitor.go(f"browse/?{question_string(question)}")
        settled(page)
        assert shown_counts(page) == atlas.facets(**question), question
        expected = atlas.keys(**question)
        assert total(page) == len(expected), question
        found = shown_keys(page)
        assert (found if question["text"] else sorted(found)) == (expected if question["text"] else sorted(expected)), question


def test_clicking_values_counts_as_the_catalog_does(visit, atlas):
    page = visit().go("browse/")
    assert shown_counts(page) == atlas.facets()
    asked = {}
    for axis, value in [("when", "before_training"), ("when", "during_training"), ("granularity", "weight"), ("how", "magnitude")]:
        choose(page, axis, value)
        asked.setdefault(axis, []).append(value)
        assert shown_counts(page) == atlas.facets(**asked)
        assert total(page) == len(atlas.keys(**asked))
    assert "when=before_training&when=during_training" in page.url
    choose(page, "when", "before_training")
    assert total(page) == len(atlas.keys(when="during_training", granularity="weight", how="magnitude"))


WORDS = [
    "pruning",
    "prun net",
    "Łukasz",
    "müller",
    "MULLER",
    "rethink, global!",
    "p",
    "nguyễn zoe",
    "layer-wise mask",
    "tickets tickets",
    "alert",
]


def test_words_find_and_rank_as_the_catalog_does(visit, atlas):
    page = visit().go("browse/")
    for words in WORDS:
        page.locator("#text").fill(words)
        page.wait_for_function("words => new URLSearchParams(location.search).get('text') === words", arg=words)
        settled(page)
        assert shown_keys(page) == atlas.keys(text=words), words


def test_nothing_moves_by_itself_under_the_pointer(visit):
    """A page that glides, or grows while it is scrolled, takes a button away between press and release: the click is lost."""
    page = visit().go("browse/")
    places = page.evaluate(
        """async () => {
          const seen = async (what) => {
            const values = new Set();
            for (let frame = 0; frame < 12; frame++) {
              await new Promise(requestAnimationFrame);
              values.add(what());
            }
            return values.size;
          };
          await document.fonts.ready;
          const root = document.documentElement;
          scrollTo(0, root.scrollHeight);
          const grown = await seen(() => `${root.scrollHeight} ${document.querySelector("[data-more] button").getBoundingClientRect().y}`);
          document.querySelector("#text").focus();
          return [grown, await seen(() => scrollY), scrollY < 400];
        }"""
    )
    assert places == [1, 1, True]


def test_two_quick_clicks_show_no_paper_twice(visit, atlas):
    page = visit().go("browse/?sort=oldest")
    page.evaluate("for (let click = 0; click < 2; click++) document.querySelector('[data-more] button').click()")
    page.wait_for_function("document.querySelectorAll('[data-results] [data-key]').length > 50")
    assert shown_keys(page) == atlas.keys()


def test_punctuation_alone_asks_nothing(visit, atlas):
    page = visit().go("browse/?" + urlencode({"text": '"*:-('}))
    assert total(page) == len(atlas)


def test_orders(visit, atlas):
    page = visit().go("browse/?sort=oldest")
    assert shown_keys(page) == atlas.keys()
    page.locator("#sort").select_option("newest")
    settled(page)
    dated = [key for key in atlas if atlas[key].year is not None]
    assert shown_keys(page) == dated[::-1] + [key for key in atlas if atlas[key].year is None]
    page.locator("#sort").select_option("title")
    settled(page)
    titles = [atlas[key].title.lower() for key in shown_keys(page)]
    assert titles == sorted(titles)
    assert "sort=title" in page.url


def test_the_address_can_be_shared_and_reloaded(visit, atlas):
    page = visit().go("browse/")
    choose(page, "when", "before_training")
    page.locator("#text").fill("sparsity")
    page.wait_for_url(re.compile("text=sparsity"))
    settled(page)
    keys = shown_keys(page)
    assert keys == atlas.keys(text="sparsity", when="before_training")
    other = visit()
    other.page.goto(page.url)
    settled(other.page)
    assert shown_keys(other.page) == keys
    assert other.page.locator("#text").input_value() == "sparsity"
    assert box(other.page, "when", "before_training").is_checked()
    other.page.reload()
    settled(other.page)
    assert shown_keys(other.page) == keys


def test_back_and_forward(visit, atlas):
    page = visit().go("browse/")
    choose(page, "speedup", "structured")
    page.locator("#text").press_sequentially("spars", delay=200)
    page.wait_for_url(re.compile("text=spars$|text=spars&"))
    settled(page)
    page.locator("[data-results] a").first.click()
    page.wait_for_url(re.compile("/papers/"))
    page.go_back()
    settled(page)
    assert total(page) == len(atlas.keys(text="spars", speedup="structured"))
    page.go_back()  # one step for the whole word, however long it took to type
    settled(page)
    assert "text" not in page.url
    assert page.locator("#text").input_value() == ""
    assert total(page) == len(atlas.keys(speedup="structured"))
    page.go_back()
    settled(page)
    assert total(page) == len(atlas)
    assert not box(page, "speedup", "structured").is_checked()
    page.go_forward()
    settled(page)
    assert box(page, "speedup", "structured").is_checked()


def test_years_by_dragging_and_by_typing(visit, atlas):
    page = visit().go("browse/")
    bars = page.locator("[data-years]").bounding_box()
    first, last = (int(page.locator(".years").get_attribute(f"data-{name}")) for name in ("first", "last"))
    width = bars["width"] / (last - first + 1)

    def at(year):
        return bars["x"] + (year - first + 0.5) * width

    page.mouse.move(at(2020), bars["y"] + 20)
    page.mouse.down()
    page.mouse.move(at(2016), bars["y"] + 20, steps=4)
    page.mouse.up()
    settled(page)
    assert "years=2016-2020" in page.url
    assert total(page) == len(atlas.keys(years=(2016, 2020)))
    page.locator("#year-last").fill("2018")
    page.locator("#year-last").press("Enter")
    settled(page)
    assert total(page) == len(atlas.keys(years=(2016, 2018)))
    page.get_by_role("button", name="Remove the filter 2016 to 2018").click()
    settled(page)
    assert total(page) == len(atlas)


def test_nothing_found_says_which_filter_to_drop(visit, atlas):
    page = visit().go("browse/?" + urlencode({"text": "zzz", "when": "before_training"}))
    settled(page)
    assert total(page) == 0
    buttons = page.locator("[data-drop]")
    assert buttons.count() == 1
    count = len(atlas.keys(when="before_training"))
    assert buttons.inner_text() == f"Drop the words “zzz”: {count} papers"
    buttons.click()
    settled(page)
    assert total(page) == count
    page.goto(page.url.split("?")[0] + "?" + urlencode({"text": "zzz", "years": "1900-1901"}))
    settled(page)
    assert "several" in page.locator("[data-nothing]").inner_text()


def test_a_slip_in_the_words_is_forgiven(visit, atlas):
    name = next(paper.name for paper in atlas.papers() if paper.name and paper.name.startswith("Prune2"))
    page = visit().go("browse/")
    page.locator("#text").fill(name.replace("un", "nu"))
    page.locator("[data-meant]", has_text=name).first.click()
    settled(page)
    assert total(page) == len(atlas.keys(text=name)) > 0


def test_clear_all(visit, atlas):
    page = visit().go("browse/?when=run_time&years=2018-2020&text=sparse")
    page.locator("[data-clear]").click()
    settled(page)
    assert total(page) == len(atlas)
    assert page.url.endswith("/browse/")


def test_unknown_values_in_the_address_ask_nothing(visit, atlas):
    page = visit().go("browse/?when=never&nonsense=1&years=x&sort=worst&when=run_time")
    assert total(page) == len(atlas.keys(when="run_time"))


def test_the_same_question_for_shell_and_python(visit, atlas):
    page = visit().go("browse/?when=run_time&how=magnitude&how=lp_norm&text=it's+sparse&years=2018-2020")
    page.locator(".elsewhere summary").click()
    assert page.locator("[data-shell]").inner_text() == (
        "pruning-atlas query --when run_time --how magnitude --how lp_norm --years 2018-2020 --text 'it'\\''s sparse'"
    )
    code = page.locator("[data-python]").inner_text().replace("Catalog.open()", "opened").replace("from catalog import Catalog", "")
    names = {"opened": atlas}
    exec(code.replace("atlas.papers", "found = atlas.papers"), names)
    assert [paper.key for paper in names["found"]] == atlas.keys(
        text="it's sparse", years=(2018, 2020), when="run_time", how=["magnitude", "lp_norm"]
    )


def test_a_selection_can_be_saved(visit, atlas):
    page = visit().go("browse/?when=before_training&sort=oldest")
    papers = atlas.papers(when="before_training")

    def saved(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).click()
        return download.value.path().read_text(encoding="utf-8")

    assert json.loads(saved("JSON")) == [formats.as_object(paper) for paper in papers]
    assert saved("CSV") == formats.as_csv(papers)
    assert [row["key"] for row in csv.DictReader(io.StringIO(saved("CSV")))] == [paper.key for paper in papers]
    assert saved("BibTeX") == "\n\n".join(atlas.bibtex(paper.key).strip() for paper in papers) + "\n"
    assert saved("RIS").count("ER  - ") == len(papers)


def test_filters_on_a_narrow_window(visit, atlas):
    visitor = visit()
    visitor.page.set_viewport_size({"width": 360, "height": 700})
    page = visitor.go("browse/")
    assert not page.locator("#facets").is_visible()
    page.locator("[data-facets-open]").click()
    choose(page, "when", "run_time")
    page.keyboard.press("Escape")
    assert not page.locator("#facets").is_visible()
    assert total(page) == len(atlas.keys(when="run_time"))
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_by_keyboard_alone(visit, atlas):
    page = visit().go("browse/")
    page.keyboard.press("/")
    page.keyboard.type("pruning")
    page.wait_for_url(re.compile("text=pruning"))
    settled(page)
    assert total(page) == len(atlas.keys(text="pruning"))
    box(page, "speedup", "structured").focus()
    page.keyboard.press("Space")
    settled(page)
    assert total(page) == len(atlas.keys(text="pruning", speedup="structured"))


def test_a_table_of_the_same_papers(visit, atlas):
    page = visit().go("browse/?when=run_time&sort=oldest")
    page.get_by_role("button", name="Table").click()
    settled(page)
    assert "view=table" in page.url
    assert shown_keys(page) == atlas.keys(when="run_time")
    row = page.locator(f"[data-results] [data-key={atlas.keys(when='run_time')[0]}]").inner_text()
    assert "At run time" in row
    page.go_back()
    settled(page)
    assert page.locator("[data-results] table").count() == 0


def test_a_timeline_of_the_same_papers(visit, atlas):
    page = visit().go("browse/?when=before_training&view=timeline")
    settled(page)
    papers = atlas.papers(when="before_training")
    assert sorted(page.eval_on_selector_all(".timeline [data-key]", "links => links.map(link => link.dataset.key)")) == sorted(
        p.key for p in papers
    )
    newest = max(paper.year for paper in papers if paper.year)
    count = sum(paper.year == newest for paper in papers)
    assert page.locator(".timeline h2").first.inner_text() == f"{newest} {count}"


def test_a_matrix_counts_and_leads_to_its_papers(visit, atlas):
    page = visit().go("browse/?years=2010-2024&view=matrix")
    settled(page)
    count = len(atlas.keys(years=(2010, 2024), how="magnitude", when="before_training"))
    cell = page.locator("[data-cell='magnitude before_training']")
    assert int(cell.inner_text()) == count
    page.locator(".matrix-axes select").first.select_option("granularity")
    settled(page)
    assert "rows=granularity" in page.url
    cell = page.locator("[data-cell='weight before_training']")
    expected = atlas.keys(years=(2010, 2024), granularity="weight", when="before_training")
    assert int(cell.inner_text()) == len(expected)
    cell.click()
    settled(page)
    assert sorted(shown_keys(page)) == sorted(expected)
