"""Vocabularies, against small ones."""

import pyarrow as pa
import pytest

from pipelines.prepare.vocabularies import frequent, make_vocabulary


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


def test_what_is_frequent_in_parts_holds_what_is_frequent_in_all():
    parts = [counts({"a": 1, "b": 4, "e": 3}), counts({"c": 2, "d": 2, "f": 1})]

    kept = pa.concat_tables([frequent(part, 2, 2) for part in parts])

    assert [len(frequent(part, 2, 2)) for part in parts] == [2, 2]
    assert make_vocabulary(kept, 2, 2).text == b"b\ne\n"


@pytest.mark.parametrize("token", ["", "two\nlines", "a\rb"])
def test_a_token_that_no_line_can_hold_is_out_of_vocabulary(token):
    assert make_vocabulary(counts({token: 5, "a": 1}), 1, None).text == b"a\n"


def test_the_digest_is_that_of_the_text():
    # Known digest of the empty text.
    assert make_vocabulary(counts({"a": 1}), 2, None).sha256.startswith("e3b0c44298fc1c14")
