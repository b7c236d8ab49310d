"""What a config may say of aggregates."""

import pytest

from tfrs_twotower.schema import UsageError, parse_config
from tfrs_twotower.schema.features import Aggregate

COUNT = "{kind: number, aggregate: {what: count, days: 7}}"
MEAN = "{kind: number, aggregate: {what: mean}}"
ITEM = "item_id: {kind: id}"


def config(*, columns="{timestamp: t, value: v}", context="", candidate="", loss="{}", query=""):
    return parse_config(
        f"columns: {columns}\n"
        f"features:\n  query: {{user_id: {{kind: id}}, {query}}}\n"
        f"  context: {{{context}}}\n  candidate: {{{ITEM}, {candidate}}}\n"
        f"loss: {loss}\n",
        "here.yaml",
    )


def refusal(**parts):
    with pytest.raises(UsageError) as caught:
        config(**parts)
    return str(caught.value).removeprefix("here.yaml: ")


def test_aggregates_are_known_by_side_and_belong_to_the_event():
    made = config(
        context=f"seen: {COUNT}, device: {{kind: categorical}}", candidate=f"liked: {MEAN}"
    )

    assert made.query_aggregates == {"seen": Aggregate(what="count", days=7)}
    assert made.candidate_aggregates == {"liked": Aggregate(what="mean")}
    assert list(made.event_features) == ["seen", "device", "liked"]
    assert made.has_means


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param(
            {"context": "x: {kind: number, column: y, aggregate: {what: count}}"},
            "features.context.x.aggregate: is computed from the log, not read from a `column`: "
            "keep one",
            id="a-column",
        ),
        pytest.param(
            {"query": f"x: {COUNT}"},
            "features.query.x.aggregate: is of the moment, not of the profile: put the feature "
            "under `features.context`",
            id="of-the-profile",
        ),
        pytest.param(
            {"columns": "{order: n}\nsplit: {by: leave_last_out}", "context": f"x: {COUNT}"},
            "features.context.x.aggregate: needs `columns.timestamp`",
            id="no-times",
        ),
        pytest.param(
            {"columns": "{timestamp: t}", "candidate": f"x: {MEAN}"},
            "features.candidate.x.aggregate: a mean needs `columns.value`",
            id="no-values",
        ),
        pytest.param(
            {"context": "x: {kind: number, aggregate: {what: sum}}"},
            "features.context.x.aggregate.what: Input should be 'count', 'mean' or 'recency', got "
            "'sum'",
            id="unknown",
        ),
        pytest.param(
            {"context": "x: {kind: number, aggregate: {what: count, days: 0}}"},
            "features.context.x.aggregate.days: Input should be greater than 0, got 0",
            id="no-days",
        ),
        pytest.param(
            {"context": "x: {kind: number, aggregate: {what: count, days: 40000}}"},
            "features.context.x.aggregate.days: Input should be less than or equal to 36525, got "
            "40000",
            id="before-all-times",
        ),
    ],
)
def test_what_cannot_be_found_is_refused(parts, expected):
    assert refusal(**parts) == expected


@pytest.mark.parametrize(
    ("loss", "drawn"),
    [
        ("{uniform_negatives: 9}", "uniform_negatives"),
        ("{implicit_negatives: 1}", "implicit_negatives"),
        ("{kind: bce}", "implicit_negatives"),
        ("{kind: bpr, explicit_negatives: 0}", "implicit_negatives"),
        ("{kind: margin, implicit_negatives: 0}", "explicit_negatives"),
        ("{explicit_negatives: 2}", "explicit_negatives"),
        ("{mined_negatives: 1}", "mined_negatives"),
    ],
)
def test_negatives_of_the_corpus_know_more_than_the_example_and_are_refused(loss, drawn):
    message = refusal(candidate=f"liked: {MEAN}", loss=loss)

    assert message == (
        f"loss.{drawn}: are drawn from the corpus, whose aggregates (`features.candidate.liked`) "
        "are of the end of train, later than the example: set it to 0, or remove the `aggregate`"
    )
    assert config(context=f"liked: {MEAN}", loss=loss).loss.draws_from_corpus == drawn


@pytest.mark.parametrize(
    "loss",
    [
        "{}",
        "{hard_negatives: 5}",
        "{kind: bce, implicit_negatives: 0}",
        "{kind: margin, implicit_negatives: 0, explicit_negatives: 0, hard_negatives: 3}",
    ],
)
def test_negatives_of_the_batch_carry_the_values_of_their_own_moments(loss):
    assert config(candidate=f"liked: {MEAN}", loss=loss).candidate_aggregates


def test_an_aggregate_says_what_it_is():
    assert str(Aggregate(what="count", days=7)) == "number of positives in 7 days"
    assert str(Aggregate(what="recency")) == "days since the last positive"


def test_another_window_is_another_schema_of_the_records():
    schemas = {
        config(
            context=f"x: {{kind: number, aggregate: {{what: count, days: {days}}}}}"
        ).fingerprint()
        for days in ("7", "30", "null")
    }

    assert len(schemas) == 3
