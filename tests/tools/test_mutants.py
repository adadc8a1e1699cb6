"""The mutants: what is changed, what is left alone, and that a noticed break is told from an unnoticed one."""

import pytest

from tools import mutants

SOURCE = '''
"""A docstring with 1 + 1."""
TRAITS = frozenset({"exact_count"})


def scale(x: "float | 3", factor=2):
    if factor < 0:
        raise ValueError("factor: below 0")
    total = x.abs() * factor
    total += 1
    print(total)
    return max(-x, total)
'''


def changes():
    return dict(mutants.mutants(SOURCE))


def test_every_operator_number_and_statement_is_changed_once():
    assert set(changes()) == {
        "line 9: Mult -> Div",
        "line 9: abs() dropped",
        "line 10: Add -> Sub",
        "line 10: update dropped",
        "line 10: 1 -> 2",
        "line 11: statement dropped",
        "line 12: arguments swapped",
        "line 12: USub dropped",
    }


def test_a_mutant_differs_in_its_own_line_only():
    original = mutants.ast.unparse(mutants.ast.parse(SOURCE)).splitlines()
    for what, text in changes().items():
        changed = [(old, new) for old, new in zip(original, text.splitlines(), strict=True) if old != new]
        assert len(changed) == 1, what
    assert "total = x.abs() / factor" in changes()["line 9: Mult -> Div"]
    assert "return max(total, -x)" in changes()["line 12: arguments swapped"]


@pytest.fixture
def breaks_of_snip(monkeypatch, tmp_path):
    """A project root whose only file is the list of breaks; gives the function that writes it."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)

    def write(text):
        path = tmp_path / "tests/breaks/before_training/snip.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def a_break(old):
    return f'[[break]]\nwhat = "w"\nold = "{old}"\nnew = "z"\n'


def test_breaks_by_hand_are_applied(breaks_of_snip):
    breaks_of_snip(
        a_break("x.abs()") + a_break("+= 1") + a_break("max") + '[[equivalent]]\nwhat = "line 9: Mult -> Div"\nwhy = "because"\n'
    )
    found, explained = mutants.breaks("before_training.snip", SOURCE)
    assert "total = z * factor" in found[0][1]
    assert explained == {"line 9: Mult -> Div": "because"}


@pytest.mark.parametrize(
    ("text", "message"), [(a_break("total"), "occurs 4 times"), (a_break("absent"), "occurs 0 times"), (a_break("max"), "1 breaks; three")]
)
def test_breaks_that_are_not_in_order_are_named(breaks_of_snip, text, message):
    breaks_of_snip(text)
    with pytest.raises(ValueError, match=message):
        mutants.breaks("before_training.snip", SOURCE)


def test_a_noticed_break_is_told_from_none():
    path = mutants.ROOT / "reference_impls/before_training/snip.py"
    source = path.read_text()
    assert not mutants.killed("before_training.snip", source)
    assert mutants.killed("before_training.snip", source.replace("weight.detach() * g", "weight.detach() / g"))
    assert path.read_text() == source


def test_a_result_is_kept_as_long_as_what_it_rests_on_is_unchanged():
    module = mutants.ROOT / "reference_impls/during_training/granet.py"
    names = {file.stem for file in mutants.imported(module)}
    assert names >= {"granet", "rigl", "connections", "densities", "masks"}  # RigL's rule is imported, what RigL stands on through it
    assert not names & {"ddpg", "snip"}
