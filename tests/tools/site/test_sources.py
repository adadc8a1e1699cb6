import pytest

from tests.site.made_up import modules
from tools.site import sources

EXAMPLE = '''"""SNIP: prune once (lee2019snip).

Idea: gates.
"""

import torch

UNIT = "weight"
AMOUNTS = (Sparsity, NM)
TRAITS = frozenset({"exact_count", "fixed_mask"})

# a note on what follows
def helper(x: int) -> int:
    """Says something.

    Args:
        x: a number.
    """
    # y = x
    return x


def masks(model, batches, amount: float = 0.5, *, loss=None) -> Masks:
    """The entry."""
    return {}


END = 1
'''


@pytest.fixture
def source(tmp_path, monkeypatch):
    (tmp_path / "reference_impls" / "before_training").mkdir(parents=True)
    (tmp_path / "reference_impls" / "before_training" / "example.py").write_text(EXAMPLE)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "IMPLEMENTATIONS", tmp_path / "reference_impls")
    sources.read.cache_clear()
    yield sources.read("before_training.example")
    sources.read.cache_clear()


def test_what_a_module_says_of_itself(source):
    assert source.name == "SNIP"
    assert source.promise == "Prune once (lee2019snip)."
    assert source.explanation == "Idea: gates."
    assert source.path == "reference_impls/before_training/example.py"
    assert source.entry == "masks(model, batches, amount: float=0.5, *, loss=None) -> Masks"
    assert source.declared == {"UNIT": ("weight",), "AMOUNTS": ("Sparsity", "NM"), "TRAITS": ("exact_count", "fixed_mask")}


def test_passages_are_the_file_without_its_docstrings(source):
    assert [passage.name for passage in source.passages] == ["", "helper", "masks", ""]
    first, helper, masks, last = source.passages
    assert first.code.startswith("import torch")
    assert helper.code == "# a note on what follows\ndef helper(x: int) -> int:\n    # y = x\n    return x"
    assert helper.explanation.startswith("Says something.")
    assert masks.explanation == "The entry."
    assert last.code == "END = 1"
    lines = EXAMPLE.splitlines()
    assert lines[helper.line - 1] == "# a note on what follows"
    assert lines[masks.line - 1].startswith("def masks")


@pytest.mark.parametrize("module", modules())
def test_no_line_of_a_real_module_is_lost(module):
    source = sources.read(module)
    text = (sources.ROOT / source.path).read_text(encoding="utf-8")
    told = {line.strip() for passage in source.passages for line in passage.code.splitlines()}
    explained = " ".join([source.title, source.explanation, *(passage.explanation for passage in source.passages)])
    for line in text.splitlines():
        bare = line.strip().strip('"').strip()
        assert not bare or line.strip() in told or bare in explained, line


def test_traits_are_explained():
    assert sources.traits()["exact_count"]


def test_code_is_escaped():
    assert "<script>" not in sources.colored('x = "<script>"')
