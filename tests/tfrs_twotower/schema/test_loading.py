"""How a config is read: every mistake by its path, what was expected, and the cure."""

from datetime import date

import pytest

from tfrs_twotower.schema import UsageError, dump_config, load_config, parse_config
from tfrs_twotower.schema.labels import Label

WITH_TIMES = "columns: {timestamp: ts}\n"


def refusal(text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        parse_config(text, "shop.yaml", overrides or [])
    return str(caught.value)


def query_feature(settings: str) -> str:
    return f"{WITH_TIMES}features: {{query: {{u: {settings}}}, candidate: {{i: {{kind: id}}}}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colums: {}", "colums: unknown key; did you mean `columns`?"),
        ("training: {epoch: 3}", "training.epoch: unknown key; did you mean `epochs`?"),
        (
            "features: {context: {n: {kind: number, aggregate: {what: count, dayz: 7}}}}",
            "features.context.n.aggregate.dayz: unknown key; did you mean `days`?",
        ),
        (
            "towers: {query: {hidden_unit: [8]}}",
            "towers.query.hidden_unit: unknown key; did you mean `hidden_units`?",
        ),
        (
            "labels: {events: {click: {lable: 1}}}",
            "labels.events.click.lable: unknown key; did you mean `label`?",
        ),
        ("features: {quary: {}}", "features.quary: unknown key; did you mean `query`?"),
        (
            query_feature("{kind: id, colum: x}"),
            "features.query.u.colum: unknown key; did you mean `column`?",
        ),
        (
            query_feature("{kind: idd}"),
            "features.query.u.kind: unknown kind 'idd'; did you mean `id`?",
        ),
    ],
    ids=lambda value: value if value.startswith(("features.", "labels.")) else "",
)
def test_a_misspelt_key_is_answered_with_the_nearest_legal_name(text, expected):
    assert refusal(text) == f"shop.yaml: {expected}"


def test_a_key_of_another_kind_of_feature_is_answered_with_that_kind():
    assert refusal(query_feature("{kind: id, encoder: attention}")) == (
        "shop.yaml: features.query.u.encoder: belongs to kind history, not to id"
    )


def test_a_key_that_is_like_no_other_is_answered_with_all_legal_names():
    assert refusal("labels: {zzz: 1}") == (
        "shop.yaml: labels.zzz: unknown key; expected one of events, values, positive_from"
    )


@pytest.mark.parametrize(
    ("text", "path", "expectation", "given"),
    [
        ("training: {epochs: three}", "training.epochs", "integer", "'three'"),
        ("training: {epochs: '3'}", "training.epochs", "integer", "'3'"),
        ("training: {epochs: 3.5}", "training.epochs", "integer", "3.5"),
        ("training: {epochs: 0}", "training.epochs", "greater than 0", "0"),
        ("training: {batch_size: 1}", "training.batch_size", "greater than or equal to 2", "1"),
        ("training: {metric: recall}", "training.metric", ": String should match", "'recall'"),
        ("loss: {temperature: .nan}", "loss.temperature", "finite number", "nan"),
        ("loss: {temperature: .inf}", "loss.temperature", "finite number", "inf"),
        ("training: {seed: -1}", "training.seed", "greater than or equal to 0", "-1"),
        ("training: {seed: 99999999999999999999}", "training.seed", "less than", "9999"),
        ("labels: {positive_from: .nan}", "labels.positive_from", "finite number", "nan"),
        ("loss: {logq_correction: 1}", "loss.logq_correction", "boolean", "1"),
        ("split: {by: times}", "split.by", "'leave_last_out'", "'times'"),
        ("towers: {query: {hidden_units: [8, x]}}", "towers.query.hidden_units.1", "integer", "x"),
        ("labels: {events: {click: 1}}", "labels.events.click", "section", "1"),
        ("features: {query: []}", "features.query", "section", "[]"),
        ("training:", "training", "section", "None"),
        (query_feature("{kind: history, length: -1}"), "features.query.u.length", "than 0", "-1"),
        (query_feature("{kind: vector}"), "features.query.u.dimension", "required", ""),
        (query_feature("{column: x}"), "features.query.u", "kind: categorical", ""),
        (query_feature("{kind: id, missing: nil}"), "features.query.u.missing", "'zero'", "'nil'"),
    ],
)
def test_a_wrong_value_is_told_by_its_path_the_expectation_and_what_was_given(
    text, path, expectation, given
):
    first = refusal(text).splitlines()[0]

    assert first.startswith(f"shop.yaml: {path}: ")
    assert expectation in first
    assert given in first


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file():
    text = """\
loss: {kind: bce, margin: 0.7, hard_negatives: 3}
training: {epoch: 3, batch_size: 1, seed: -1}
export: {default_k: 50, max_k: 20}
towers: {query: {hidden_units: [8, x]}, scoring_hidden_units: [4]}
colums: {}
"""

    assert refusal(text).splitlines() == [
        "shop.yaml: loss.margin: does not apply to bce: it is an option of margin",
        "shop.yaml: loss.hard_negatives: does not apply to bce: it is an option of softmax, margin "
        "and bpr",
        "shop.yaml: training.epoch: unknown key; did you mean `epochs`?",
        "shop.yaml: training.batch_size: Input should be greater than or equal to 2, got 1",
        "shop.yaml: training.seed: Input should be greater than or equal to 0, got -1",
        "shop.yaml: export.default_k: 50 is above `max_k` (20)",
        "shop.yaml: towers.query.hidden_units.1: Input should be a valid integer, got 'x'",
        "shop.yaml: colums: unknown key; did you mean `columns`?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            query_feature("{kind: id, missing: nil}"),
            "features.query.u.missing: Input should be 'indicator' or 'zero' or a section with "
            "keys, got 'nil'",
            id="neither",
        ),
        pytest.param(
            query_feature("{kind: id, missing: {fill: unknown, fil: x}}"),
            "features.query.u.missing.fil: unknown key; did you mean `fill`?",
            id="the-second",
        ),
        pytest.param(
            query_feature("{kind: id, missing: {fill: [x]}}"),
            "features.query.u.missing.fill: Input should be a valid string or a valid number or a "
            "valid boolean, got ['x']",
            id="a-fill",
        ),
        pytest.param(
            "search: {training.epochs: {low: [], high: 3}}",
            "search.training.epochs.low: Input should be a valid integer or a valid number, got []",
            id="an-end-of-a-range",
        ),
        pytest.param(
            "search: {training.epochs: {low: 1, high: 3, logg: true}}",
            "search.training.epochs.logg: unknown key; did you mean `log`?",
            id="a-range",
        ),
        pytest.param(
            "search: {training.epochs: 3}",
            "search.training.epochs: Input should be a section with keys or a valid list, got 3",
            id="neither-range-nor-list",
        ),
    ],
)
def test_a_mistake_in_a_value_of_two_forms_is_told_once(text, expected):
    assert refusal(text) == f"shop.yaml: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b", "shop.yaml: expected sections such as `columns:`, got a list"),
        ("hello", "shop.yaml: expected sections such as `columns:`, got a text"),
        ("a: [", "shop.yaml is not YAML: "),
        ("a: !!python/object/apply:os.getcwd []", "shop.yaml is not YAML: "),
        ("a: 2024-99-99", "shop.yaml is not YAML: "),
        ("? [a, b]\n: 1", "shop.yaml is not YAML: "),
    ],
    ids=["list", "text", "broken", "python-object", "impossible-date", "list-as-key"],
)
def test_a_file_that_is_no_config_at_all_is_told_in_one_line(text, expected):
    message = refusal(text)

    assert message.startswith(expected)
    assert "\n" not in message


def test_a_key_that_is_given_twice_is_refused_with_its_place():
    text = "training: {epochs: 3}\nloss: {}\ntraining: {seed: 1}\n"

    assert refusal(text) == (
        "shop.yaml is not YAML: the key `training` is given twice (line 3, column 1)"
    )


def test_a_syntax_error_is_told_with_its_place():
    assert refusal("loss: {}\ntraining: [") == (
        "shop.yaml is not YAML: while parsing a flow node expected the node content, but found "
        "'<stream end>' (line 2, column 12)"
    )


def test_an_anchor_may_be_merged_and_overridden():
    text = (
        WITH_TIMES
        + "towers:\n  query: &tower {hidden_units: [8], dropout: 0.1}\n"
        + "  candidate: {<<: *tower, dropout: 0.2}\n"
    )

    towers = parse_config(text, "shop.yaml").towers

    assert (towers.candidate.hidden_units, towers.candidate.dropout) == ([8], 0.2)


def test_a_file_that_cannot_be_read_is_a_usage_error_that_names_it(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the config .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_a_file_that_is_not_text_is_a_usage_error_that_names_it(tmp_path):
    (tmp_path / "model.yaml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match=r"cannot read the config .*model\.yaml"):
        load_config(tmp_path / "model.yaml")


def test_an_override_replaces_a_value_of_the_file(tmp_path):
    (tmp_path / "shop.yaml").write_text(WITH_TIMES + "training: {epochs: 5, seed: 1}")

    config = load_config(tmp_path / "shop.yaml", ["training.epochs=7"])

    assert (config.training.epochs, config.training.seed) == (7, 1)


def test_overrides_are_yaml_and_make_the_sections_they_need():
    config = parse_config(
        WITH_TIMES, "shop.yaml", ["towers.query.hidden_units=[64, 32]", "columns.title=name"]
    )

    assert config.towers.query.hidden_units == [64, 32]
    assert config.columns.title == "name"
    assert config.columns.timestamp == "ts"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epochs", "--set training.epochs: expected path.to.key=value"),
        ("=3", "--set =3: expected path.to.key=value"),
        ("training..epochs=3", "--set training..epochs=3: expected path.to.key=value"),
        (
            "columns.timestamp.x=3",
            "--set columns.timestamp.x=3: `timestamp` is not a section",
        ),
        ("training.epochs=[", "--set training.epochs=[: the value is not YAML"),
        ("training.epoch=3", "shop.yaml: training.epoch: unknown key; did you mean `epochs`?"),
    ],
)
def test_an_override_that_cannot_be_applied_is_told(override, expected):
    assert refusal(WITH_TIMES, [override]) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(WITH_TIMES, id="defaults"),
        pytest.param(
            WITH_TIMES + "split: {by: dates, validation_from: 2024-01-01, test_from: 2024-02-01}",
            id="dates",
        ),
        pytest.param(
            "columns: {timestamp: ts, value: thumbs}\n"
            "labels: {values: {-1: {label: 0}, 1: {}, 2: {weight: 2.5}}}",
            id="values",
        ),
        pytest.param(
            query_feature("{kind: categorical, missing: {fill: 'yes'}, column: Größe}"), id="fill"
        ),
        pytest.param(query_feature("{kind: timestamp, parts: [weekday]}"), id="parts"),
    ],
)
def test_a_config_that_is_written_out_reads_back_the_same(text):
    config = parse_config(text, "shop.yaml")

    assert parse_config(dump_config(config), "again.yaml") == config


def test_values_of_the_file_have_the_types_that_the_config_promises():
    config = parse_config(
        "columns: {timestamp: ts, value: thumbs}\n"
        "labels: {values: {-1: {label: 0}}}\n"
        "split: {by: dates, validation_from: 2024-01-01, test_from: 2024-02-01}",
        "shop.yaml",
    )

    assert config.labels.values == {-1.0: Label(label=0)}
    assert config.split.validation_from == date(2024, 1, 1)


def test_a_written_config_keeps_other_scripts_readable():
    config = parse_config("columns: {timestamp: ts, query_id: користувач}", "shop.yaml")

    assert "користувач" in dump_config(config)


def test_a_number_in_scientific_notation_is_a_number():
    text = "columns: {timestamp: at}\ntraining: {learning_rate: 1e-4}"

    config = parse_config(text, "config", ["loss.temperature=5E-2"])

    assert config.training.learning_rate == 0.0001
    assert config.loss.temperature == 0.05
