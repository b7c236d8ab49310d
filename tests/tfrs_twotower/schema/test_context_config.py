"""Settings of context modes and encoders of histories: what goes together, and what is refused."""

import pytest

from tfrs_twotower.schema import UserError, parse_config

HISTORY = "past: {kind: history}"
CLOCK = "clock: {kind: timestamp}"


def config(
    towers: str = "{}",
    *,
    query: str = f"me: {{kind: id}}, {HISTORY}",
    context: str = CLOCK,
    more: str = "",
    columns: str = "{timestamp: ts}",
) -> object:
    return parse_config(
        f"columns: {columns}\n"
        "features:\n"
        f"  query: {{{query}}}\n"
        f"  context: {{{context}}}\n"
        "  candidate: {it: {kind: id}}\n"
        f"towers: {towers}\n{more}",
        "shop.yaml",
    )


def refusal(*arguments: str, **named: str) -> str:
    with pytest.raises(UserError) as refused:
        config(*arguments, **named)
    return str(refused.value)


BCE = "loss: {kind: bce}\nexport: {retrieval: false}"


def test_the_mode_is_that_of_the_towers():
    assert config("{context_mode: trilinear}").context_mode == "trilinear"


def test_without_context_features_there_is_no_mode_and_nothing_to_refuse():
    assert config("{context_mode: scoring_layer}", context="").context_mode is None


def test_modes_and_encoders_are_no_part_of_the_records():
    plain = config()
    other = config(
        "{context_mode: trilinear}",
        query="me: {kind: id}, past: {kind: history, "
        "encoder: attention, blocks: 3, heads: 2, convolution: 4, dropout: 0.1}",
    )

    assert plain.fingerprint() == other.fingerprint()


def test_a_scoring_layer_with_scann_is_refused_with_the_alternatives():
    said = refusal("{context_mode: scoring_layer}", more="loss: {kind: bce}")

    assert "export.retrieval: " in said
    assert "set it to false" in said
    assert "trilinear" in said
    assert len(said.splitlines()) == 1


def test_a_scoring_layer_scores_no_stored_vectors():
    said = refusal(
        "{context_mode: scoring_layer}",
        more="loss: {kind: bce}\nexport: {retrieval: false, similarity: true}",
    )

    assert "export.similarity: " in said
    assert len(said.splitlines()) == 1


def test_a_scoring_layer_with_a_softmax_is_refused_with_the_reason():
    said = refusal("{context_mode: scoring_layer}", more="export: {retrieval: false}")

    assert "needs bce" in said
    assert "gradient" in said


def test_a_scoring_layer_with_mined_negatives_is_refused():
    more = "loss: {kind: bce, mined_negatives: 2}\nexport: {retrieval: false}"

    assert "dot product" in refusal("{context_mode: scoring_layer}", more=more)


@pytest.mark.parametrize("mode", ["trilinear", "scoring_layer"])
def test_a_mode_that_joins_the_query_with_the_moment_needs_something_of_the_query(mode):
    said = refusal(f"{{context_mode: {mode}}}", query="", more=BCE)

    assert "needs features of the query" in said


def test_hidden_layers_of_scoring_need_the_scoring_layer():
    assert "scoring_layer" in refusal("{scoring_hidden_units: [4]}")


def test_a_context_tower_that_nothing_reads_is_refused():
    assert "user_tower" in refusal("{context: {hidden_units: [4]}}")


@pytest.mark.parametrize("encoder", ["gru", "attention"])
def test_an_ordered_history_of_events_without_order_is_refused(encoder):
    said = refusal(
        query=f"past: {{kind: history, encoder: {encoder}}}",
        context="",
        columns="{split: part}",
        more="split: {by: column}",
    )

    assert "columns.timestamp" in said
    assert "or take mean" in said


def test_attention_without_a_history_is_refused():
    assert "encoder" in refusal(query="me: {kind: id, encoder: attention}")


@pytest.mark.parametrize("setting", ["blocks: 2", "heads: 2", "convolution: 0", "dropout: 0.1"])
def test_a_setting_of_another_encoder_is_refused(setting):
    said = refusal(query=f"past: {{kind: history, encoder: mean, {setting}}}")

    assert setting.split(":")[0] in said


def test_heads_must_divide_the_width_of_the_candidates():
    said = refusal(
        "{embedding_dim: 8}", query="past: {kind: history, encoder: attention, heads: 3}"
    )

    assert "past.heads: 3 must divide" in said
    assert "(8)" in said


def test_an_ordered_history_is_trained_on_one_device():
    said = refusal(
        query="past: {kind: history, encoder: gru}", more="training: {distribution: mirrored}"
    )

    assert "one_device" in said
