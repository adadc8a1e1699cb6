"""The vocabulary is closed, complete and told in words that differ."""

import pytest

from schema.terms import AXES, AXIS, FACETS, Evidence, Kind, Relation, Term

CLOSED = {
    "speedup": "unstructured semi_structured structured",
    "granularity": "weight n_m_group pattern vector weight_block kernel stripe filter channel neuron head layer block embedding_dimension "
    "matrix token expert edge",
    "when": "before_training during_training early_training after_training run_time",
    "how": "magnitude lp_norm sensitivity loss_change sparsity_regularization meta_learning graph_neural_network "
    "reinforcement_learning random gradient_flow activation reconstruction similarity learned_mask learned_predictor "
    "drop_and_grow input_gating variational_bayesian evolutionary_search differentiable_search constrained_optimization "
    "spectral information rewinding other",
    "fusion": "quantization tensor_decomposition nas knowledge_distillation",
    "structured_family": "filter_norm filter_correlation current_layer adjacent_layer all_layers bn_parameters extra_parameters filters "
    "taylor variational_bayesian others dynamic_training dynamic_inference reinforcement_learning gradient_based evolutionary "
    "lottery_ticket joint_compression special_granularity",
    "passes": "one_shot iterative",
    "data": "data_free data_driven",
    "weights": "initialized pretrained",
    "scope": "global local",
    "recovery": "none fine_tuning from_scratch rewinding",
    "transfer": "original_task transfer",
    "supervision": "supervised semi_supervised self_supervised unsupervised",
    "networks": "mlp cnn rnn vision_transformer language_encoder sequence_to_sequence large_language_model multimodal_model "
    "mixture_of_experts state_space_model diffusion_model gan graph_network spiking_network speech_model binary_network "
    "other",
    "applications": "image_classification object_detection segmentation image_generation image_restoration pose_estimation video "
    "point_clouds image_retrieval medical_imaging language_understanding language_modeling question_answering reasoning "
    "machine_translation text_generation speech_audio vision_language reinforcement_learning graph_learning recommendation "
    "signals adversarial_robustness security_privacy fairness continual_learning federated_learning multi_task_learning "
    "edge_deployment",
}
KIND = "method theory analysis survey benchmark library application adjacent"
EVIDENCE = "survey_figure survey_list abstract full_text code secondary title"
RELATION = "implements variant subject nearest"
SECTIONS = {
    "speedup": {"unstructured": "3.1", "structured": "3.2", "semi_structured": "3.3"},
    "when": {"before_training": "4.1", "during_training": "4.2", "after_training": "4.3", "run_time": "4.4"},
    "how": {
        "magnitude": "5.1",
        "lp_norm": "5.2",
        "sensitivity": "5.3",
        "loss_change": "5.4",
        "sparsity_regularization": "6.1",
        "meta_learning": "6.2",
        "graph_neural_network": "6.3",
        "reinforcement_learning": "6.4",
    },
    "fusion": {"quantization": "8.1", "tensor_decomposition": "8.2", "nas": "8.3", "knowledge_distillation": "8.4"},
    "passes": {"one_shot": "7.2", "iterative": "7.2"},
    "data": {"data_free": "7.3", "data_driven": "7.3"},
    "weights": {"initialized": "7.4", "pretrained": "7.4"},
    "scope": {"global": "7.5", "local": "7.5"},
    "recovery": {"fine_tuning": "7.6", "from_scratch": "7.6"},
    "transfer": {"original_task": "7.7", "transfer": "7.7"},
}
"""The sections of Cheng, Zhang & Shi as their figure numbers them; no other term of theirs names one."""
ENUMS = [*FACETS.values(), Evidence]


def test_axes_stand_in_their_order() -> None:
    assert list(AXES) == list(CLOSED)


@pytest.mark.parametrize("axis", CLOSED)
def test_lists_are_closed(axis: str) -> None:
    assert [term.value for term in AXES[axis]] == CLOSED[axis].split()


@pytest.mark.parametrize(("enum", "values"), [(Kind, KIND), (Evidence, EVIDENCE), (Relation, RELATION)])
def test_lists_beside_the_axes_are_closed(enum: type[Term], values: str) -> None:
    assert [term.value for term in enum] == values.split()


@pytest.mark.parametrize("enum", ENUMS)
def test_every_member_has_its_four_texts(enum: type[Term]) -> None:
    for term in enum:
        for text in (term.title, term.definition, term.rule, term.source):
            assert isinstance(text, str) and text == text.strip() and text, term
        assert term.definition.endswith(".") and term.rule.endswith("."), term
        assert 1 <= term.definition.count(". ") + 1 <= 3, term
        assert term == term.value == str(term), "a term is its value"
        assert term.name == term.value.upper(), "the member is named as its value"


@pytest.mark.parametrize("enum", ENUMS)
def test_texts_tell_the_terms_of_an_axis_apart(enum: type[Term]) -> None:
    for texts in ([t.title for t in enum], [t.definition for t in enum]):
        assert len(set(texts)) == len(texts)


def test_no_two_definitions_are_the_same_anywhere() -> None:
    definitions = [term.definition for enum in ENUMS for term in enum]
    assert len(set(definitions)) == len(definitions)


def test_rules_name_only_terms_that_exist() -> None:
    values = {term.value for enum in ENUMS for term in enum} | set(FACETS)
    words = {word for enum in ENUMS for term in enum for word in term.rule.replace("(", " ").split() if "_" in word}
    assert {word.strip(".,;:)`").split("settings.")[-1] for word in words} - values == {"how_note"}


def test_a_value_is_looked_up_by_its_text() -> None:
    assert AXES["when"]("before_training").title == "Before training"
    with pytest.raises(ValueError, match="before_trainin"):
        AXES["when"]("before_trainin")


def test_sources_say_survey_or_ours() -> None:
    for enum in ENUMS:
        for term in enum:
            assert term.source.startswith(("Cheng, Zhang & Shi, ", "He & Xiao, section 2.", "ours")), term
    for axis, sections in SECTIONS.items():
        found = {
            term.value: term.source.removeprefix("Cheng, Zhang & Shi, section ") for term in AXES[axis] if "& Shi, section" in term.source
        }
        assert found == sections, axis
    assert len({term.source for term in AXES["structured_family"]}) == 19
    assert {term.source for term in AXES["networks"]} == {term.source for term in AXES["applications"]} == {"ours"}


def test_every_facet_has_its_texts() -> None:
    assert list(AXIS) == list(FACETS) == [*AXES, "kind", "relation"]
    for name, axis in AXIS.items():
        assert axis.name == name and axis.title and axis.source
        assert axis.definition.endswith(".") and axis.definition.count(". ") == 0
    assert len({axis.definition for axis in AXIS.values()}) == len({axis.title for axis in AXIS.values()}) == len(AXIS)
