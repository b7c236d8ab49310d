"""Where records begin and end in a buffer of text."""

import pytest

from pipelines.prepare.lines import joined, split_lines


def records_of(data, **options):
    lines = split_lines(data, **{"csv": True, "quoted_breaks": False} | options)
    return lines.records.to_pylist()


def test_records_keep_their_line_breaks_and_the_last_may_lack_one():
    assert records_of(b"a,1\nb,2\r\nc,3") == [b"a,1\n", b"b,2\r\n", b"c,3"]


def test_blank_lines_are_no_records():
    assert records_of(b"\na\n  \r\n\t\nb\n\n") == [b"a\n", b"b\n"]


def test_an_empty_buffer_has_no_record():
    assert records_of(b"") == []


def test_quoted_line_breaks_belong_to_the_value_where_they_may():
    data = b'x,"two\nlines"\ny,1\n'

    assert records_of(data, quoted_breaks=True) == [b'x,"two\nlines"\n', b"y,1\n"]
    assert records_of(data, quoted_breaks=False) == [b'x,"two\n', b'lines"\n', b"y,1\n"]


def test_a_stray_quote_costs_its_own_line_alone():
    lines = split_lines(b'a,1\nb,"2\nc,3\n', csv=True, quoted_breaks=True)

    assert lines.is_sound.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("line", "is_sound"),
    [
        pytest.param(b'"a ""b""",c\n', True, id="doubled-quotes"),
        pytest.param(b'"a","b"\r\n', True, id="all-quoted"),
        pytest.param(b'a"b,c\n', False, id="quote-inside"),
        pytest.param(b'a","b\n', False, id="even-but-astray"),
        pytest.param(b'"a"b,c\n', False, id="text-behind-the-quote"),
        pytest.param(b"a,b\rc,d\n", False, id="carriage-return-inside"),
    ],
)
def test_quotes_must_open_and_close_where_csv_allows(line, is_sound):
    lines = split_lines(line, csv=True)

    assert lines.is_sound.tolist() == [is_sound]


def test_quotes_mean_nothing_in_json_lines():
    lines = split_lines(b'{"a": "b\\""}\n"\n', csv=False, quoted_breaks=False)

    assert lines.is_sound.tolist() == [True, True]


def test_only_the_line_with_foreign_bytes_is_marked():
    lines = split_lines("é\n".encode() + b"caf\xe9\nok\n", csv=True)

    assert lines.is_utf8.tolist() == [True, False, True]


def test_joined_records_are_the_bytes_between_the_first_and_the_last():
    records = split_lines(b"a\nb\nc\n", csv=True).records

    assert joined(records[1:]).to_pybytes() == b"b\nc\n"
