"""The nearest implementation: worked out by hand on made-up papers."""

from catalog.nearest import with_nearest
from schema.records import Paper, ReferenceLink, Taxonomy
from schema.terms import Fusion, How, Relation, Speedup, When


def paper(key, implements=None, **tags):
    links = (ReferenceLink(implementation=implements, relation=Relation.IMPLEMENTS),) if implements else ()
    taxonomy = Taxonomy(**tags)
    return Paper(key=key, entry_type="misc", title=key, source="made up", summary="-", taxonomy=taxonomy, references=links)


SNIP = paper("lee2019snip", "before_training.snip", speedup=(Speedup.UNSTRUCTURED,), when=(When.BEFORE_TRAINING,), how=(How.SENSITIVITY,))
SLIM = paper("liu2017slim", "during_training.slim", speedup=(Speedup.STRUCTURED,), when=(When.DURING_TRAINING,), how=(How.SENSITIVITY,))


def nearest_to(**tags):
    [*_, found] = with_nearest([SNIP, SLIM, paper("new2020paper", **tags)])
    [link] = found.references
    assert link.relation is Relation.NEAREST
    return link.implementation


def test_the_one_that_shares_more_axes():
    # with slim: when 3 + how 3 = 6; with snip: how 3
    assert nearest_to(when=(When.DURING_TRAINING,), how=(How.SENSITIVITY,)) == "during_training.slim"
    assert nearest_to(speedup=(Speedup.UNSTRUCTURED,), how=(How.SENSITIVITY,)) == "before_training.snip"


def test_a_value_too_many_counts_against():
    # when: 3 * 1/2 for both; speedup decides
    both = (When.BEFORE_TRAINING, When.DURING_TRAINING)
    assert nearest_to(when=both, speedup=(Speedup.STRUCTURED,)) == "during_training.slim"


def test_an_axis_that_only_one_of_the_two_has_is_no_agreement():
    assert nearest_to(fusion=(Fusion.QUANTIZATION,), when=(When.DURING_TRAINING,)) == "during_training.slim"


def test_ties_go_to_the_first_name():
    assert nearest_to(how=(How.SENSITIVITY,)) == "before_training.snip"


def test_a_link_that_is_there_stays_the_only_one():
    assert [p.references for p in with_nearest([SNIP, SLIM])] == [SNIP.references, SLIM.references]


def test_where_nothing_is_implemented_nothing_is_linked():
    assert with_nearest([paper("new2020paper")])[0].references == ()
