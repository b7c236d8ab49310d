"""What a config may say: defaults, refusals, and which settings the records depend on."""

import pytest
from pydantic import ValidationError

from tfrs_twotower.schema import Config, UsageError, differences, fingerprint, parse_config
from tfrs_twotower.schema.features import Categorical, History, Id, Number, Timestamp

EVERY_SETTING = """\
columns: {timestamp: ts, event: kind, value: stars}
labels:
  events: {click: {weight: 0.5}, skip: {label: 0}}
  positive_from: 4
split: {by: time, validation: 0.2, test: 0.1}
features:
  query:
    user_id: {kind: id, dropout: 0.1, min_count: 2}
    recent: {kind: history, length: 5}
  context:
    moment: {kind: timestamp, time_zone: Europe/Paris}
  candidate:
    item_id: {kind: id}
    price: {kind: number, normalize: log}
    genres: {kind: multi_categorical, max_length: 4}
towers: {embedding_dim: 16, query: {hidden_units: [32]}}
"""

EVERY_RECORD_SETTING = """\
columns:
  {query_id: shopper, candidate_id: sku, timestamp: ts, order: n, event: kind, value: stars,
   split: part, title: name, available_from: since}
labels:
  events: {click: {weight: 0.5}, shown: {label: 0, unless_positive_within_s: 60}}
  values: {-1: {label: 0}, 1: {weight: 2}}
filters: {duplicates: last, min_per_query: 2, k_core: true}
split: {by: dates, validation_from: 2024-01-01, test_from: 2024-02-01}
features:
  query:
    me: {kind: id, dropout: 0.1, min_count: 2}
    age: {kind: number, missing: zero}
    about: {kind: text, buckets: 64}
    past: {kind: history, length: 5, encoder: gru}
  context:
    moment: {kind: timestamp, time_zone: Europe/Paris}
    seen: {kind: number, aggregate: {what: count, days: 7}}
    device: {kind: categorical, missing: {fill: phone}}
  candidate:
    it: {kind: id}
    price: {kind: number, normalize: log}
    genres: {kind: multi_categorical, max_length: 4}
    new: {kind: boolean}
    image: {kind: vector, dimension: 3}
    born: {kind: timestamp, parts: [weekday]}
export: {attributes: [name, brand]}
"""


def config(text: str) -> Config:
    return parse_config(text, "here.yaml")


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        config(text)
    return str(caught.value)


def with_features(features: str) -> str:
    return f"columns: {{timestamp: ts}}\nfeatures: {features}"


def changed(old: str, new: str) -> Config:
    assert old in EVERY_SETTING
    return config(EVERY_SETTING.replace(old, new))


def test_a_config_without_features_has_ids_and_a_history_under_the_names_of_the_columns():
    made = config("columns: {query_id: shopper, candidate_id: sku, timestamp: ts}")

    assert made.features.query == {"shopper": Id(), "history": History()}
    assert made.features.candidate == {"sku": Id()}


def test_a_column_whose_name_can_be_no_input_of_a_model_gives_a_feature_of_another_name():
    made = config("columns: {query_id: user id, candidate_id: 2nd, timestamp: ts}")

    assert list(made.features.query) == ["query", "history"]
    assert list(made.features.candidate) == ["candidate"]


def test_an_empty_file_asks_for_what_the_default_split_needs():
    assert refusal("") == "here.yaml: split.by: time needs `columns.timestamp`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "split: {by: dates, validation_from: 2024-01-01, test_from: 2024-02-01}",
            "split.by: dates needs `columns.timestamp`",
            id="dates-without-times",
        ),
        pytest.param(
            "columns: {timestamp: ts}\nsplit: {by: dates, test_from: 2024-02-01}",
            "split.by: dates needs `validation_from` and `test_from`",
            id="dates-without-a-date",
        ),
        pytest.param(
            "split: {by: dates, validation_from: 2024-03-01, test_from: 2024-02-01}",
            "split.validation_from: must not be later than `test_from`",
            id="dates-reversed",
        ),
        pytest.param(
            "columns: {timestamp: ts}\nsplit: {by: leave_last_out, gap_s: 60}",
            "split.gap_s: is for `by: time` and `by: dates`, where all of a part is later",
            id="a-gap-without-cut-offs",
        ),
        pytest.param(
            "split: {validation: 0.5, test: 0.5}",
            "split: `validation` + `test` must leave a share for train (below 1.0)",
            id="nothing-left-for-train",
        ),
        pytest.param(
            "split: {by: leave_last_out}",
            "split.by: leave_last_out needs `columns.timestamp` or `columns.order`",
            id="last-without-an-order",
        ),
        pytest.param(
            "split: {by: temporal_user}",
            "split.by: temporal_user needs `columns.timestamp` or `columns.order`",
            id="last-share-without-an-order",
        ),
        pytest.param(
            "columns: {split: part}\nsplit: {by: column}\nfilters: {duplicates: first}",
            "filters.duplicates: first needs `columns.timestamp` or `columns.order`",
            id="first-without-an-order",
        ),
        pytest.param(
            "columns: {timestamp: ts}\nfilters: {k_core: true}",
            "filters.k_core: needs `min_per_query` or `min_per_candidate`",
            id="core-of-nothing",
        ),
        pytest.param(
            "columns: {timestamp: ts, event: e}\n"
            "labels: {events: {shown: {unless_positive_within_s: 60}}}",
            "labels.events.shown.unless_positive_within_s: is for `label: 0`",
            id="a-positive-that-gives-way",
        ),
        pytest.param(
            "columns: {timestamp: ts, value: v}\n"
            "labels: {values: {0: {label: 0, unless_positive_within_s: 60}}}",
            "labels.values: `unless_positive_within_s` is for `events`, not for `values`",
            id="a-value-that-gives-way",
        ),
        pytest.param(
            "columns: {order: n, event: e}\nsplit: {by: leave_last_out}\n"
            "labels: {events: {shown: {label: 0, unless_positive_within_s: 60}}}",
            "labels.events: `unless_positive_within_s` needs `columns.timestamp`",
            id="a-window-without-times",
        ),
        pytest.param(
            "split: {by: column}", "split.by: column needs `columns.split`", id="no-split-column"
        ),
        pytest.param(
            "columns: {timestamp: ts}\nlabels: {events: {click: {}}}",
            "labels.events: needs `columns.event`",
            id="no-event-column",
        ),
        pytest.param(
            "columns: {timestamp: ts}\nlabels: {positive_from: 4}",
            "labels.positive_from: needs `columns.value`",
            id="no-value-column",
        ),
        pytest.param(
            "columns: {timestamp: ts, value: v}\nlabels: {positive_from: 4, values: {1: {}}}",
            "labels.positive_from: `values` rules the value column already: keep one of the two",
            id="two-rules-for-values",
        ),
        pytest.param(
            "columns: {timestamp: ts, query_id: id, candidate_id: id}\n"
            "features: {query: {u: {kind: id}}, candidate: {i: {kind: id}}}",
            "columns.candidate_id: is the same column as `query_id`",
            id="one-column-for-both-ids",
        ),
        pytest.param(
            "columns: {timestamp: ts}\nexport: {default_k: 50, max_k: 20}",
            "export.default_k: 50 is above `max_k` (20)",
            id="default-above-largest-k",
        ),
        pytest.param(
            with_features("{query: {u: {kind: id}}}"),
            "features.candidate: is empty: a tower needs at least one feature",
            id="no-candidate-feature",
        ),
        pytest.param(
            with_features("{query: {h: {kind: history}}, candidate: {c: {kind: categorical}}}"),
            "features.query.h: a history needs an `id` feature on the candidate side to refer to",
            id="history-of-nothing",
        ),
        pytest.param(
            with_features("{query: {u: {kind: id}, v: {kind: id}}, candidate: {i: {kind: id}}}"),
            "features.query: has more than one id",
            id="two-ids",
        ),
        pytest.param(
            with_features("{query: {x: {kind: id}}, candidate: {x: {kind: id}}}"),
            "features.candidate.x: is also a query feature: rename one and give the data's name as "
            "its `column`",
            id="one-name-on-two-sides",
        ),
        pytest.param(
            with_features("{query: {u: {kind: id}}, candidate: {h: {kind: history}}}"),
            "features.candidate.h.kind: history is not for this side; expected one of id, "
            "categorical, multi_categorical, text, number, boolean, vector, timestamp",
            id="history-of-a-candidate",
        ),
        pytest.param(
            with_features(
                "{context: {u: {kind: timestamp, time_zone: Europe/Pari}}, "
                "candidate: {i: {kind: id}}}"
            ),
            "features.context.u.time_zone: no time zone 'Europe/Pari'; use an IANA name such as "
            "Europe/Paris",
            id="unknown-time-zone",
        ),
        pytest.param(
            with_features(
                "{context: {u: {kind: timestamp, parts: [hour, hour]}}, candidate: {i: {kind: id}}}"
            ),
            "features.context.u.parts: a part is named twice: hour, hour",
            id="one-part-twice",
        ),
        pytest.param(
            with_features(
                "{query: {past: {kind: history, column: bought}}, candidate: {i: {kind: id}}}"
            ),
            "features.query.past.column: a history is made from the interactions: it has no column",
            id="a-history-in-a-column",
        ),
        pytest.param(
            with_features(
                "{query: {past: {kind: history, candidate_features: [color]}}, "
                "candidate: {i: {kind: id}, colour: {kind: categorical}}}"
            ),
            "features.query.past.candidate_features: color is no feature of the candidate side, or "
            "its id or an aggregate; expected some of colour",
            id="a-history-of-unknown-features",
        ),
        pytest.param(
            with_features(
                "{query: {past: {kind: history, candidate_features: [i]}}, "
                "candidate: {i: {kind: id}}}"
            ),
            "features.query.past.candidate_features: i is no feature of the candidate side, or its "
            "id or an aggregate; expected some of (there are none)",
            id="a-history-of-ids-twice",
        ),
        pytest.param(
            with_features(
                "{query: {past: {kind: history, candidate_features: [a, a]}}, "
                "candidate: {i: {kind: id}, a: {kind: text}}}"
            ),
            "features.query.past.candidate_features: names a feature twice",
            id="a-history-of-a-feature-twice",
        ),
    ],
)
def test_an_impossible_combination_is_refused_with_what_is_missing(text, expected):
    assert refusal(text) == f"here.yaml: {expected}"


def test_every_impossible_combination_is_told_in_the_order_of_the_file():
    text = """\
split: {by: dates, validation_from: 2024-01-01, test_from: 2024-02-01}
labels: {events: {click: {}}, positive_from: 4}
rules: {filters: [genre], category: shop}
loss: {hard_negatives: 64, mined_negatives: 1}
training: {batch_size: 64, distribution: mirrored}
features:
  candidate: {i: {kind: id}, price: {kind: number, aggregate: {what: mean}}}
  query: {h: {kind: history, encoder: attention, heads: 5}}
"""

    found = [line.removeprefix("here.yaml: ") for line in refusal(text).splitlines()]

    assert [line.split(": ")[0] for line in found] == [
        "split.by",
        "labels.events",
        "labels.positive_from",
        "rules.filters",
        "rules.category",
        "loss.hard_negatives",
        "loss.mined_negatives",
        "training.distribution",
        "features.candidate.price.aggregate",
        "features.candidate.price.aggregate",
        "features.query.h.encoder",
        "features.query.h.heads",
    ]


def test_every_mistake_within_the_features_is_told():
    text = with_features(
        "{query: {label: {kind: id}, v: {kind: id}}, context: {v: {kind: id}}, candidate: {}}"
    )

    found = [line.removeprefix("here.yaml: ") for line in refusal(text).splitlines()]

    assert [line.split(": ")[0] for line in found] == [
        "features.query",
        "features.query.label",
        "features.context.v",
        "features.context.v.kind",
        "features.candidate",
    ]


@pytest.mark.parametrize("name", ["label", "k", "filter_genre_any", "two words", "1st"])
def test_a_feature_name_that_the_served_model_cannot_have_is_refused(name):
    message = refusal(with_features(f"{{query: {{{name}: {{kind: id}}}}, candidate: {{i: {{}}}}}}"))

    assert message.startswith("here.yaml: features.candidate.i")
    message = refusal(
        with_features(f"{{query: {{{name}: {{kind: id}}}}, candidate: {{i: {{kind: id}}}}}}")
    )
    assert f"features.query.{name}: a feature's name is an input of the served model" in message
    assert message.endswith("give the data's name as `column`")


@pytest.mark.parametrize(
    ("kind", "fill", "expected"),
    [
        pytest.param("number", "cheap", "a number", id="text-for-a-number"),
        pytest.param("number", "true", "a number", id="truth-for-a-number"),
        pytest.param("boolean", "2", "true or false", id="number-for-a-boolean"),
        # 3 would silently become the token "3.0".
        pytest.param("categorical", "3", "text in quotes", id="number-for-a-token"),
        pytest.param("multi_categorical", "3", "text in quotes", id="number-for-tokens"),
        pytest.param("text", "no", "text in quotes", id="truth-for-a-text"),
    ],
)
def test_a_fill_value_must_be_one_that_the_feature_could_have(kind, fill, expected):
    message = refusal(
        with_features(
            f"{{query: {{u: {{kind: {kind}, missing: {{fill: {fill}}}}}}}, "
            "candidate: {i: {kind: id}}}"
        )
    )

    assert message.startswith(f"here.yaml: features.query.u.missing.fill: must be {expected}")


def test_a_context_may_stand_in_for_a_query_side_without_features():
    made = config(with_features("{context: {m: {kind: timestamp}}, candidate: {i: {kind: id}}}"))

    assert list(made.query_features) == ["m"]


def test_the_query_tower_reads_the_query_features_then_the_context_features():
    made = config(EVERY_SETTING)

    assert list(made.query_features) == ["user_id", "recent", "moment"]
    assert list(made.candidate_features) == ["item_id", "price", "genres"]
    assert made.query_id == ("user_id", Id(dropout=0.1, min_count=2))
    assert made.candidate_id == ("item_id", Id())
    assert made.history == ("recent", History(length=5))


def test_each_feature_knows_its_column():
    made = config(
        "columns: {query_id: shopper, candidate_id: sku, timestamp: ts}\n"
        "features:\n"
        "  query: {me: {kind: id}, age: {kind: number}, past: {kind: history}}\n"
        "  context: {moment: {kind: timestamp}, due: {kind: timestamp, column: due_s}}\n"
        "  candidate: {it: {kind: id}, tags: {kind: text, column: title}, born: {kind: timestamp}}"
    )

    columns = {
        name: made.column_of(side, name)
        for side in ("query", "context", "candidate")
        for name in getattr(made.features, side)
    }

    assert columns == {
        "me": "shopper",
        "age": "age",
        "past": None,
        "moment": "ts",  # the time of the event, where a context names no other column
        "due": "due_s",
        "it": "sku",
        "tags": "title",
        "born": "born",
    }


@pytest.mark.parametrize(
    ("columns", "expected"), [("timestamp: ts", True), ("order: n", True), ("value: v", False)]
)
def test_events_have_an_order_by_time_or_by_an_order_column(columns, expected):
    made = config(f"columns: {{{columns}, split: part}}\nsplit: {{by: column}}")

    assert made.has_order is expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("embedding_dim: 16", "embedding_dim: 24", id="width-of-the-towers"),
        pytest.param("hidden_units: [32]", "hidden_units: []", id="layers"),
        pytest.param("dropout: 0.1", "dropout: 0.3", id="dropout-of-ids"),
        pytest.param("normalize: log", "normalize: none", id="normalisation"),
        pytest.param("kind: history,", "kind: history, embedding_dim: 4,", id="width-of-a-feature"),
        pytest.param("towers:", "training: {epochs: 9}\ntowers:", id="training"),
        pytest.param("towers:", "loss: {temperature: 0.3}\ntowers:", id="loss"),
        pytest.param("towers:", "index: {reorder: 9}\ntowers:", id="index"),
    ],
)
def test_what_only_towers_and_training_read_may_change_without_new_records(old, new):
    assert changed(old, new).fingerprint() == config(EVERY_SETTING).fingerprint()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("timestamp: ts", "timestamp: time", id="column"),
        pytest.param("weight: 0.5", "weight: 0.25", id="weight-of-an-event"),
        pytest.param("validation: 0.2", "validation: 0.3", id="share-of-the-split"),
        pytest.param("towers:", "filters: {min_per_query: 2}\ntowers:", id="filters"),
        pytest.param("min_count: 2", "min_count: 3", id="vocabulary"),
        pytest.param("length: 5", "length: 6", id="length-of-the-history"),
        pytest.param(
            "length: 5", "length: 5, candidate_features: [price]", id="features-of-the-history"
        ),
        pytest.param("Europe/Paris", "Europe/London", id="time-zone"),
        pytest.param("kind: number,", "kind: number, missing: zero,", id="missing-rule"),
        pytest.param("max_length: 4", "max_length: 5", id="length-of-a-list"),
        pytest.param("price:", "cost:", id="name"),
        pytest.param("towers:", "export: {attributes: [price]}\ntowers:", id="attributes"),
    ],
)
def test_what_the_records_hold_changes_the_fingerprint(old, new):
    assert changed(old, new).fingerprint() != config(EVERY_SETTING).fingerprint()


def test_the_fingerprint_is_the_hash_of_the_schema_whatever_the_order_of_its_keys():
    # printf '{"a":1,"b":{"c":null}}' | sha256sum
    expected = "f7c5c3dc665942f4"

    assert fingerprint({"b": {"c": None}, "a": 1}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("columns: {timestamp: ts}", "e20b7190f6efc818", id="defaults"),
        pytest.param(EVERY_RECORD_SETTING, "7d2d9b86247a0b32", id="every-setting"),
    ],
)
def test_fingerprints_are_those_of_the_folders_that_exist(text, expected):
    """Prepared, run and models folders are matched by it: a change here refuses them all."""
    assert config(text).fingerprint() == expected


def test_differences_name_the_path_and_both_values():
    left = {"a": 1, "b": {"c": 2, "d": [1]}, "e": {"f": 1}}
    right = {"a": 1, "b": {"c": 3, "d": [1, 2]}, "g": 0}

    assert differences(left, right) == [
        ("b.c", 2, 3),
        ("b.d", [1], [1, 2]),
        ("e", {"f": 1}, None),
        ("g", None, 0),
    ]


def test_a_config_cannot_be_changed_after_its_check():
    made = config(EVERY_SETTING)

    with pytest.raises(ValidationError, match="frozen"):
        made.towers.embedding_dim = 3  # type: ignore[misc]


def test_kinds_keep_their_documented_missing_rules():
    defaults = {kind.__name__: kind().missing for kind in (Categorical, Number, Timestamp, History)}

    assert defaults == {
        "Categorical": "zero",
        "Number": "indicator",
        "Timestamp": "zero",
        "History": "zero",
    }


def test_whether_known_positives_are_excluded_decides_a_training_and_no_record():
    first, second, third = (
        parse_config("columns: {timestamp: ts}\nexport: {attributes: [shelf]}", "t", overrides)
        for overrides in ([], ["rules.exclude_known=false"], ["rules.category=shelf"])
    )

    assert first.training_schema() != second.training_schema()
    assert first.fingerprint() == second.fingerprint()
