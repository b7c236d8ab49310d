"""What a table says of its protocol, and which figures are those to quote."""

import numpy as np
import pytest

from tfrs_twotower.evaluation.cautions import among_in_words, cautions_of
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.schema import parse_config

NOTHING = Pairs(*np.zeros([2, 0], np.int64))
MANIFEST = {
    "counts": {"examples": dict.fromkeys(("validation", "test"), {"positives": 9, "negatives": 0})}
}
LOST = {"counts": {**MANIFEST["counts"], "filtered": {"candidate_not_in_train": 5}}}
CONTEXT = """\
features:
  query: {user: {kind: id}}
  context: {clock: {kind: timestamp}}
  candidate: {item: {kind: id}}
"""


def cautions(by="time", manifest=MANIFEST, features="", **asked):
    columns = "columns: {timestamp: t, split: s}\n"
    config = parse_config(f"{columns}split: {{by: {by}}}\n{features}", "cautions")
    evaluation_set = EvaluationSet({}, np.arange(2), NOTHING, NOTHING, 0)._replace(**asked)
    return cautions_of(config, manifest, evaluation_set)


def test_the_corpus_users_and_a_split_in_time_need_no_caution():
    assert cautions() == []


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"protocol": "sampled-100"}, "ranked among a few candidates"),
        ({"by": "random"}, "a random split: train holds what each user did before and after"),
        ({"by": "leave_last_out"}, "a split by user: train holds events of others"),
        ({"unit": "event"}, "events as queries"),
        ({"split": "train"}, "learned by heart"),
        ({"manifest": LOST}, "left out of the data"),
    ],
)
def test_each_way_to_flatter_is_told_alone(case, expected):
    [caution] = cautions(**case)

    assert expected in caution


def test_the_clock_of_a_random_split_tells_which_event_is_lacking():
    told = cautions("random", features=CONTEXT, unit="event")

    assert "clock of an event tell which one is lacking" in told[0]
    assert "clock" not in cautions("random", features=CONTEXT)[0]


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("full", "all 2,000 candidates"),
        ("sampled-100", "1 + 100 random candidates"),
        ("popular-1000", "1 + 1,000 popular candidates"),
        ("given-lists-of-may", "the candidates of given-lists-of-may"),
    ],
)
def test_a_protocol_is_told_in_words(protocol, words):
    assert among_in_words(protocol, 2000) == words
