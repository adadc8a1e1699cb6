"""What the accessibility guidelines ask for, checked where a machine can."""

import pytest

pytestmark = pytest.mark.browser


def luminance(color):
    channels = [value / 255 for value in color]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


# every text that is painted, with its colour and the first opaque background behind it
COLORS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(".visually-hidden, svg, option")) continue;
    let behind = element;
    let background = [0, 0, 0, 0];
    while (behind && background[3] < 255) { background = rgb(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
    found.push([walker.currentNode.data.trim().slice(0, 40), rgb(getComputedStyle(element).color).slice(0, 3), background.slice(0, 3)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(visit, atlas, scheme):
    visitor = visit(color_scheme=scheme)
    paper = atlas.papers(relation="implements")[0]
    paths = [
        "",
        "browse/?when=run_time",
        f"papers/{paper.key}/",
        "taxonomy/",
        "taxonomy/how/magnitude/",
        "implementations/",
        "docs/cookbook/",
    ]
    for path in [*paths, f"implementations/{paper.references[0].implementation}/"]:
        page = visitor.go(path)
        weak = [(text, round(contrast(ink, paper), 2)) for text, ink, paper in page.evaluate(COLORS) if contrast(ink, paper) < 4.5]
        assert weak == [], path


def test_everything_that_can_be_clicked_can_be_reached_and_seen(visit, atlas):
    visitor = visit()
    paper = atlas.papers(relation="implements")[0]
    for path in ["", "browse/", f"papers/{paper.key}/"]:
        page = visitor.go(path)
        seen = []
        for _ in range(25):
            page.keyboard.press("Tab")
            seen.append(
                page.evaluate(
                    """() => {
                      const style = getComputedStyle(document.activeElement);
                      return [document.activeElement.tagName, style.outlineStyle, parseFloat(style.outlineWidth)];
                    }"""
                )
            )
        assert all(tag != "BODY" and outline != "none" and width >= 1 for tag, outline, width in seen), (path, seen)


def test_names_roles_and_landmarks(visit, atlas):
    visitor = visit()
    paper = atlas.papers(relation="implements")[0]
    for path in ["", "browse/", f"papers/{paper.key}/", "taxonomy/when/run_time/"]:
        page = visitor.go(path)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("a, button, input, select, summary")]
              .filter((element) => element.checkVisibility())
              .filter((element) => !(element.textContent.trim() || element.getAttribute("aria-label") || element.labels?.length))
              .map((element) => element.outerHTML.slice(0, 120))"""
        )
        assert nameless == [], path
        assert page.locator("main").count() == page.locator("header.masthead").count() == page.locator("footer").count() == 1
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
        assert len(ids) == len(set(ids)), path
        assert page.evaluate(
            "[...document.querySelectorAll('[aria-describedby]')].every(e => document.getElementById(e.getAttribute('aria-describedby')))"
        )


def test_nothing_moves_after_the_first_paint(visit):
    visitor = visit()
    visitor.page.add_init_script(
        """window.moved = 0;
        const sum = (list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value; };
        new PerformanceObserver(sum).observe({ type: "layout-shift", buffered: true });"""
    )
    for path in ["", "browse/", "browse/?when=before_training&text=pruning", "taxonomy/how/magnitude/"]:
        page = visitor.go(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.moved") < 0.1, path
