"""A small made-up repository: four papers, two implementations, everything that `check` wants to see."""

import textwrap

import pytest

VENUES = """\
iclr: {name: International Conference on Learning Representations, abbreviation: ICLR, kind: conference, series: ICLR}
botany: {name: Journal of Botany, abbreviation: J. Bot., kind: journal}
arxiv: {name: arXiv, abbreviation: arXiv, kind: preprint}
"""

BIBLIOGRAPHY = {
    "1990": r"""
        @article{adler1990pruning,
          title    = {Pruning Apple Trees in Winter},
          author   = {Adler, Ada and van Beek, Bram and King, Jr., Martin},
          journal  = {Journal of Botany},
          year     = {1990},
          volume   = {2},
          pages    = {10--12},
          doi      = {10.1000/apple.1},
          x-source = {made up},
        }
        """,
    "2019": r"""
        @inproceedings{muller2019shears,
          title         = {{SHEARS}: Cutting before the First Leaf},
          author        = {M{\"u}ller, J{\'a}n and Adler, Ada},
          booktitle     = {ICLR},
          year          = {2019},
          eprint        = {1901.00001},
          archiveprefix = {arXiv},
          x-openreview  = {B1shears01},
          url           = {https://example.org/shears?a=1\&b=2},
          x-source      = {made up},
        }

        % two years later
        @misc{beek2019leaves,
          title         = {Leaves that Choose Themselves},
          author        = {Bram van Beek},
          year          = 2019,
          howpublished  = {arXiv},
          x-source      = {made up},
        }
        """,
    "undated": r"""
        @misc{anonundatedtrunks,
          title    = {A Survey of Trunks & Branches: 100% <b>bare</b>},
          x-source = {made up},
        }
        """,
}

RECORDS = {
    "adler1990pruning": """
        kind: method
        taxonomy:
          speedup: [unstructured]
          when: [after_training]
          how: [magnitude]
          settings: {passes: [iterative, one_shot], weights: [pretrained]}
        networks: [mlp]
        evidence: {speedup: abstract, when: abstract, how: full_text, settings: full_text, networks: title}
        references:
          - {implementation: after_training.saw, relation: implements}
        """,
    "muller2019shears": """
        name: SHEARS
        taxonomy:
          speedup: [structured, unstructured]
          when: [before_training]
          how: [sensitivity, other]
          how_note: asks the gardener
          fusion: [quantization]
        applications: [image_classification]
        evidence: {speedup: abstract, when: abstract, how: abstract, fusion: abstract, applications: abstract}
        references:
          - {implementation: before_training.shears, relation: implements}
          - {implementation: after_training.saw, relation: variant, differs: "It cuts before, not after."}
        builds_on: [adler1990pruning]
        code: [https://example.org/code, https://example.org/code2]
        reported:
          - {metric: top-1 accuracy (%), value: 91.5, dataset: Orchard, network: Tree-5, source: table 2}
          - {metric: sparsity, value: 1.0, dataset: Orchard, network: Tree-5, source: table 2}
        """,
    "beek2019leaves": """
        kind: adjacent
        taxonomy: {when: [run_time]}
        evidence: {when: title}
        builds_on: [muller2019shears, adler1990pruning]
        """,
    "anonundatedtrunks": """
        kind: survey
        taxonomy: {}
        references:
          - {implementation: before_training.shears, relation: subject, differs: It describes what the module does.}
        authors_unknown: true
        """,
}

SUMMARIES = {
    "adler1990pruning": "Small branches go first.\nWhat is left grows on.\n\nA second paragraph, about the Gärtner's naïve saw.",
    "muller2019shears": "Shears cut at the beginning.",
    "beek2019leaves": "Each leaf decides, input by input.",
    "anonundatedtrunks": "All about trunks; magnitude included.",
}

IMPLEMENTATIONS = {
    "before_training/shears": ("muller2019shears", "def masks(model, batches, amount):\n    return 'shears'\n"),
    "after_training/saw": ("adler1990pruning and muller2019shears", "def prune(model, batches, amount):\n    return 'saw'\n"),
}


class Garden:
    """The made-up repository in a folder; `write` and `replace` change it."""

    def __init__(self, root):
        self.root = root
        self.write("catalog/venues.yaml", VENUES)
        for year, text in BIBLIOGRAPHY.items():
            self.write(f"catalog/bibliography/{year}.bib", textwrap.dedent(text).lstrip())
        for key, text in RECORDS.items():
            head = textwrap.dedent(text).strip()
            self.write(f"catalog/papers/{key}.md", f"---\nkey: {key}\n{head}\n---\n{SUMMARIES[key]}\n")
        for module, (names, code) in IMPLEMENTATIONS.items():
            folder, name = module.split("/")
            self.write(f"reference_impls/{module}.py", f'"""After {names}."""\n\n\n{code}')
            self.write(f"tests/reference_impls/{folder}/test_{name}.py", "def test_nothing():\n    pass\n")
            self.write(f"site_src/snippets/{module}.py", "print('cut')\n")

    @property
    def database(self):
        return self.root / "build" / "catalog.sqlite"

    def write(self, path, text):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def replace(self, path, old, new):
        text = (self.root / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        self.write(path, text.replace(old, new))


@pytest.fixture
def garden(tmp_path):
    return Garden(tmp_path)
