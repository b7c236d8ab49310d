"""Vocabularies and statistics, against small sums."""

import math

import pyarrow as pa
import pytest

from pipelines.prepare.number_statistics import count_values, merge_counts, number_statistics
from pipelines.prepare.vocabularies import make_vocabulary


def counts(values):
    return pa.table({"value": list(values), "count": pa.array(values.values(), pa.int64())})


def test_tokens_come_by_count_then_by_their_bytes():
    table = counts({"b": 2, "é": 2, "z": 2, "B": 2, "rare": 1, "top": 9})

    # "é" begins with the byte C3, after every ASCII letter.
    assert make_vocabulary(table, 1, None).text.decode() == "top\nB\nb\nz\né\nrare\n"


def test_rare_tokens_and_those_beyond_the_size_have_no_line():
    table = counts({"a": 5, "b": 4, "c": 3, "d": 1})

    vocabulary = make_vocabulary(table, 2, 2)

    assert (vocabulary.text, vocabulary.num_tokens) == (b"a\nb\n", 2)


def test_counts_of_a_token_in_several_pieces_add_up():
    table = pa.concat_tables([counts({"a": 1, "b": 2}), counts({"a": 2})])

    assert make_vocabulary(table, 3, None).text == b"a\n"


@pytest.mark.parametrize("token", ["", "two\nlines", "a\rb"])
def test_a_token_that_no_line_can_hold_is_out_of_vocabulary(token):
    assert make_vocabulary(counts({token: 5, "a": 1}), 1, None).text == b"a\n"


def test_the_digest_is_that_of_the_text():
    # Known digest of the empty text.
    assert make_vocabulary(counts({"a": 1}), 2, None).sha256.startswith("e3b0c44298fc1c14")


def test_statistics_of_numbers_leave_missing_ones_out():
    table = merge_counts(count_values(pa.array([1.0, None, 3.0, 3.0, -7.0], pa.float32())))

    statistics = number_statistics(table)

    # 1, 3, 3 and -7: mean 0; squares 1 + 9 + 9 + 49 = 68.
    assert (statistics.num_values, statistics.mean, statistics.variance) == (4, 0.0, 17.0)
    logs = [math.log(2), math.log(4), math.log(4), -math.log(8)]
    assert statistics.log_mean == pytest.approx(sum(logs) / 4)
    assert statistics.quantiles == (-7, -7, -7, 1, 1, 1, 3, 3, 3, 3, 3)


def test_no_number_has_statistics_of_zero():
    table = merge_counts(count_values(pa.array([], pa.float32())))

    assert number_statistics(table).num_values == 0
