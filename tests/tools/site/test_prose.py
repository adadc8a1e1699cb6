import pytest

from tools.site import prose


def test_a_summary_keeps_paragraphs_emphasis_and_code():
    assert prose.summary("One *two* `w < 0`.\n\nThree.") == "<p>One <em>two</em> <code>w &lt; 0</code>.</p>\n<p>Three.</p>"


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script> | [x](javascript:1)",
        "<div>\n<script>alert(1)</script>\n</div>",
        "![x](http://example.org/x.png)",
        "[x][y]\n\n[y]: javascript:1",
        "<javascript:alert(1)>",
        "# heading <img src=x onerror=alert(1)>",
        "a\n===\n<b>",
        "&lt;script&gt; <!-- x -->",
    ],
)
def test_what_could_lead_elsewhere_stays_text(text):
    written = prose.summary(text)
    for forbidden in ("<script", "<img", "<a", "<h1", "<div", "<b>", "<!--"):
        assert forbidden not in written


def test_a_description_ends_with_a_sentence():
    assert prose.plain("One. Two `x` *y*.") == "One. Two x y."
    assert prose.plain("A sentence of words. " + "long " * 60, limit=40) == "A sentence of words."
    assert prose.plain("long " * 60, limit=20) == "long long long long …"


@pytest.fixture
def docstrings():
    return prose.Docstrings({"lee2019snip"}, lambda key: f"/papers/{key}/")


def test_keys_of_known_papers_become_links(docstrings):
    assert docstrings.inline("see lee2019snip, not lee2020other, and `x<y`") == (
        'see <a href="/papers/lee2019snip/">lee2019snip</a>, not lee2020other, and <code>x&lt;y</code>'
    )


def test_a_docstring_has_lead_ins_lists_and_arguments(docstrings):
    text = """Idea: gates <c>.

    Implementation details
    1. First
       goes on.
    2. Second.

    Args:
        model: at initialization.
        batches: (inputs, targets),
            at least one.

    Raises:
        ValueError: none given.
    """
    import inspect

    written = docstrings.render(inspect.cleandoc(text))
    assert "<p><strong>Idea.</strong> Gates &lt;c&gt;.</p>" in written
    assert "<p><strong>Implementation details.</strong></p><ol><li>First goes on.</li><li>Second.</li></ol>" in written
    assert "<dt><code>batches</code></dt><dd>(inputs, targets), at least one.</dd>" in written
    assert "<dt><code>ValueError</code></dt><dd>none given.</dd>" in written


def test_a_rule_links_the_values_it_names():
    known = {"loss_change": "../how/loss_change/"}
    assert prose.rule("Not for loss_change & other_thing.", known.get) == (
        'Not for <a href="../how/loss_change/"><code>loss_change</code></a> &amp; other_thing.'
    )


def test_a_section_without_names_is_plain_text(docstrings):
    written = docstrings.render("Says.\n\nReturns:\n    A list of two.\n    And more: of it.")
    assert '<p class="section-name">Returns</p><p>A list of two.</p><p>And more: of it.</p>' in written
    assert "<dl" not in written
