"""Settings of the loss that cannot be meant are refused in one line."""

import pytest

from tfrs_twotower.schema import UsageError, parse_config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("loss: {temperature: -0.1}", "loss.temperature: Input should be greater than 0, got -0.1"),
        ("loss: {temperature: 0}", "loss.temperature"),
        ("loss: {margin: -1.0, kind: margin}", "loss.margin"),
        ("loss: {hard_negatives: -1}", "loss.hard_negatives"),
        (
            "loss: {hard_negatives: 64}\ntraining: {batch_size: 64}",
            "`loss.hard_negatives` (64) is above the 63 negatives that a query has in a batch",
        ),
        (
            "loss: {kind: margin, implicit_negatives: 0, explicit_negatives: 0}",
            "`kind: margin` without negatives: give `implicit_negatives`",
        ),
        ("loss: {kind: margin, learn_temperature: true}", "`learn_temperature` is not for"),
        ("loss: {kind: bce, hard_negatives: 3}", "are not for `kind: bce`"),
        ("loss: {kind: bpr, uniform_negatives: 3}", "need `hard_negatives`"),
        ("loss: {in_batch_negatives: false}", "needs `uniform_negatives`"),
        ("loss: {bilateral_weight: 0}", "loss.bilateral_weight"),
        ("loss: {bilateral_weight: 1.2, hard_negatives: 3}", "without `hard_negatives`"),
        ("loss: {bilateral_weight: 1.2, kind: bpr}", "`bilateral_weight` is for `kind: softmax`"),
        (
            "loss: {in_batch_negatives: false, uniform_negatives: 9, hard_negatives: 2}",
            "is for `kind: softmax` without `hard_negatives`",
        ),
        ("loss: {mined_negatives: 101}", "`mined_negatives` (101) is above `mine_from` (100)"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(settings, expected):
    with pytest.raises(UsageError) as refused:
        parse_config("split: {by: random}\n" + settings, "shop.yaml")

    assert expected in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_as_many_hard_negatives_as_there_are_negatives_are_taken():
    config = parse_config(
        "split: {by: random}\ntraining: {batch_size: 64}\n"
        "loss: {hard_negatives: 73, uniform_negatives: 10}\n",
        "shop.yaml",
    )

    assert config.loss.hard_negatives == 73


@pytest.mark.parametrize(
    ("kind", "learned"), [("softmax", False), ("margin", False), ("bpr", False), ("bce", True)]
)
def test_the_temperature_is_learned_by_default_for_labelled_pairs_alone(kind, learned):
    config = parse_config(f"split: {{by: random}}\nloss: {{kind: {kind}}}\n", "shop.yaml")

    assert config.loss.learns_temperature == learned
