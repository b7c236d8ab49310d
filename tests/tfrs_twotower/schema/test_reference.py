"""The reference is a config that does nothing, and says everything."""

import typing

from tfrs_twotower.schema import Config, parse_config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.reference import reference


def test_the_reference_reads_back_as_the_default_config():
    text = reference().replace("timestamp: null", "timestamp: at", 1)

    read = parse_config(text, "reference")

    assert read == parse_config("columns: {timestamp: at}", "defaults")


def test_every_section_and_every_kind_of_feature_is_in_it():
    text = reference()

    for section in Config.model_fields.keys() - {"features"}:
        assert f"\n{section}:" in text
    for kind in typing.get_args(Feature):
        assert f"# kind: {kind.model_fields['kind'].default}\n" in text
        for option in kind.model_fields.keys() - {"kind", "column"}:
            assert f"#   {option}: " in text
