"""The reference names every key and changes none."""

import typing

from tfrs_twotower.schema import Config, parse_config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.reference import reference


def test_the_reference_as_printed_reads_back_as_the_default_config():
    read = parse_config(reference(), "reference")

    assert read == parse_config("columns: {timestamp: timestamp}", "defaults")


def test_lines_fit_and_the_items_of_a_list_begin_them():
    lines = reference().splitlines()

    assert max(map(len, lines)) <= 100
    assert [line.split("`")[1] for line in lines if line.startswith("# * ")] == [
        "user_tower",
        "trilinear",
        "scoring_layer",
    ]


def test_every_section_and_every_kind_of_feature_is_in_it():
    text = reference()

    for section in Config.model_fields.keys() - {"features"}:
        assert f"\n{section}:" in text
    for kind in typing.get_args(Feature):
        assert f"# kind: {kind.model_fields['kind'].default}\n" in text
        for option in kind.model_fields.keys() - {"kind", "column"}:
            assert f"#   {option}: " in text
