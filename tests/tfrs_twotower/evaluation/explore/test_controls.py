import datetime
import zoneinfo

import pytest

from tests.tfrs_twotower.evaluation.explore.conftest import make_version
from tfrs_twotower.evaluation.explore import controls
from tfrs_twotower.schema.features import Timestamp

PARIS = zoneinfo.ZoneInfo("Europe/Paris")


def shown(found):
    return [(one.name, one.kind) for one in found]


def test_ids_and_histories_are_chosen_elsewhere(version):
    assert shown(controls.profile_controls(version)) == [("city", "one")]
    assert shown(controls.context_controls(version)) == [("clock", "moment"), ("device", "one")]


def test_categories_are_those_of_the_vocabulary(version):
    assert controls.context_controls(version)[1].options == ("phone", "desk")


def test_rules_are_those_that_the_version_takes(version):
    assert shown(controls.rule_controls(version)) == [
        ("filter_kinds_any", "some"),
        ("filter_kinds_none", "some"),
        ("filter_price", "range"),
        ("mmr_lambda", "slider"),
        ("min_score", "slider"),
    ]


def test_values_of_a_filter_are_the_most_frequent_first_then_by_name(version):
    assert controls.rule_controls(version)[0].options == ("tea", "wine", "green", "milk")


def test_a_truth_value_is_filtered_as_requests_name_it(version):
    found = make_version(
        config="""\
columns: {query_id: user, candidate_id: item}
split: {by: random}
features:
  query: {user: {kind: id}}
  candidate: {item: {kind: id}, is_new: {kind: boolean}}
rules: {filters: [is_new]}
""",
        candidates=version.candidates.assign(is_new=[True, False] * 3),
        rule_inputs=frozenset({"filter_is_new_any"}),
    )

    [control] = controls.rule_controls(found)
    assert control.options == ("true", "false")


@pytest.mark.parametrize(
    ("hour", "weekday", "expected"),
    [
        (8, 2, (8, 2)),
        (0, None, (0, 0)),  # A Monday.
        (None, 6, (12, 6)),  # Noon.
        (23, 6, (23, 6)),
    ],
)
def test_a_moment_has_the_hour_and_weekday_in_the_features_time_zone(hour, weekday, expected):
    seconds = controls.unix_seconds(Timestamp(time_zone="Europe/Paris"), hour, weekday)

    moment = datetime.datetime.fromtimestamp(seconds, PARIS)
    assert (moment.hour, moment.weekday()) == expected


def test_no_moment_is_not_given():
    assert controls.unix_seconds(Timestamp(), None, None) is None


def test_what_changes_nothing_is_not_asked(version):
    neutral = {one.name: one.neutral for one in controls.rule_controls(version)}

    assert controls.rule_inputs(version, neutral) == {}
    assert controls.rule_inputs(version, {}) == {}
    assert controls.rule_inputs(version, {"filter_kinds_any": []}) == {}


def test_only_the_bound_that_was_moved_restricts(version):
    assert controls.rule_inputs(version, {"filter_price": (2.0, 10.0)}) == {"filter_price_min": 2.0}
    assert controls.rule_inputs(version, {"filter_price": (1.5, 9.0)}) == {"filter_price_max": 9.0}


def test_rules_by_their_inputs_half_lives_in_seconds(version):
    with_age = make_version(rule_inputs=version.rule_inputs | {"half_life_s"})

    assert controls.rule_inputs(
        with_age, {"half_life_s": 7, "filter_kinds_none": ["wine"], "mmr_lambda": 0.5}
    ) == {"half_life_s": 604_800.0, "filter_kinds_none": ["wine"], "mmr_lambda": 0.5}


def test_a_rule_that_a_version_lacks_is_not_asked(version):
    assert controls.rule_inputs(version, {"half_life_s": 7}) == {}
