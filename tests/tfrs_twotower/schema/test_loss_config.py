"""Settings of the loss that cannot be meant are refused in one line."""

import pytest
import yaml

from tfrs_twotower.schema import UsageError, dump_config, parse_config


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("loss: {temperature: -0.1}", "loss.temperature: Input should be greater than 0, got -0.1"),
        ("loss: {temperature: 0}", "loss.temperature"),
        ("loss: {margin: -1.0, kind: margin}", "loss.margin"),
        ("loss: {hard_negatives: -1}", "loss.hard_negatives"),
        (
            "loss: {hard_negatives: 64}\ntraining: {batch_size: 64}",
            "loss.hard_negatives: 64 is above the 63 negatives that a query has in a batch",
        ),
        (
            "loss: {hard_negatives: 256}",
            "loss.hard_negatives: 256 is above the 255 negatives that a query has in a batch",
        ),
        (
            "loss: {kind: margin, implicit_negatives: 0, explicit_negatives: 0}",
            "loss.kind: margin has no negatives: give `implicit_negatives`, `explicit_negatives` "
            "or `hard_negatives`",
        ),
        (
            "loss: {in_batch_negatives: false}",
            "loss.in_batch_negatives: false needs `uniform_negatives`",
        ),
        ("loss: {bilateral_weight: 0}", "loss.bilateral_weight: Input should be greater than 0"),
        ("loss: {mined_negatives: 101}", "loss.mined_negatives: 101 is above `mine_from` (100)"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(settings, expected):
    with pytest.raises(UsageError) as refused:
        parse_config("split: {by: random}\n" + settings, "shop.yaml")

    assert expected in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


SETTINGS = {
    "temperature": "0.2",
    "learn_temperature": "true",
    "bilateral_weight": "1.2",
    "margin": "0.7",
    "logq_correction": "false",
    "mask": "none",
    "in_batch_negatives": "false",
    "uniform_negatives": "9",
    "hard_negatives": "3",
    "explicit_negatives": "1",
    "implicit_negatives": "1",
    "mined_negatives": "1",
    "mine_every": "3",
    "mine_from": "50",
}
OF_ALL = {"implicit_negatives", "mined_negatives", "mine_every", "mine_from"}
OF_BATCH = {"mask", "uniform_negatives"}
OPTIONS = {
    "kind: softmax": set(SETTINGS) - {"margin"},
    "kind: softmax, hard_negatives: 3": set(SETTINGS)
    - {"margin", "bilateral_weight", "in_batch_negatives"},
    "kind: margin": OF_ALL | {"margin", "hard_negatives", "explicit_negatives"},
    "kind: margin, hard_negatives: 3": OF_ALL
    | OF_BATCH
    | {"margin", "hard_negatives", "explicit_negatives"},
    "kind: bpr": OF_ALL
    | {"temperature", "learn_temperature", "hard_negatives", "explicit_negatives"},
    "kind: bpr, hard_negatives: 3": OF_ALL
    | OF_BATCH
    | {"temperature", "learn_temperature", "hard_negatives", "explicit_negatives"},
    "kind: bce": OF_ALL | {"temperature", "learn_temperature"},
}


@pytest.mark.parametrize("option", SETTINGS)
@pytest.mark.parametrize("kind", OPTIONS)
def test_a_kind_refuses_each_option_that_it_would_ignore(kind, option):
    settings = yaml.safe_load(f"{{{kind}, {option}: {SETTINGS[option]}}}")
    if option == "in_batch_negatives":
        settings["uniform_negatives"] = 9
    text = "split: {by: random}\n" + yaml.safe_dump({"loss": settings})

    if option in OPTIONS[kind]:
        parse_config(text, "shop.yaml")
    else:
        name = kind.removeprefix("kind: ").replace(", hard_negatives: 3", " with `hard_negatives`")
        with pytest.raises(
            UsageError, match=f"shop.yaml: loss.{option}: does not apply to {name}: it is an "
        ):
            parse_config(text, "shop.yaml")


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_kind_reads_a_written_config_with_every_option_at_its_default(kind):
    config = parse_config(f"split: {{by: random}}\nloss: {{{kind}}}", "shop.yaml")

    assert parse_config(dump_config(config), "again.yaml") == config


@pytest.mark.parametrize(
    ("former", "mask"),
    [
        ("{mask_accidental_hits: true, mask_known_positives: true}", "known_positives"),
        ("{mask_accidental_hits: true, mask_known_positives: false}", "accidental_hits"),
        # Known positives had no effect without accidental hits.
        ("{mask_accidental_hits: false, mask_known_positives: true}", "none"),
        ("{mask_accidental_hits: false, mask_known_positives: false}", "none"),
        ("{mask_accidental_hits: false}", "none"),
        ("{mask_known_positives: false}", "accidental_hits"),
        ("{mask: accidental_hits, mask_known_positives: true}", "known_positives"),
        ("{mask: known_positives, mask_known_positives: false}", "accidental_hits"),
    ],
)
def test_the_former_keys_of_the_mask_are_read_and_written_as_one(former, mask):
    config = parse_config(f"split: {{by: random}}\nloss: {former}", "shop.yaml")

    assert config.loss.mask == mask
    assert yaml.safe_load(dump_config(config))["loss"]["mask"] == mask
    assert "mask_" not in dump_config(config)


def test_a_former_key_that_a_kind_would_ignore_is_refused_at_another_than_its_default():
    written = "split: {by: random}\nloss: {kind: bpr, mask_known_positives: %s}"

    assert parse_config(written % "true", "run").loss.kind == "bpr"
    with pytest.raises(UsageError, match=r"loss\.mask: does not apply to bpr"):
        parse_config(written % "false", "run")


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
