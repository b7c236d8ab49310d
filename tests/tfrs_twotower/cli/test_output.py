"""What is printed stands there as it was: brackets and colons of users' data mean nothing."""

import pytest

from tfrs_twotower.cli import output
from tfrs_twotower.schema import UserError

# An unmatched closing tag, a style, an emoji's name, a link.
TEXTS = ("/data/[/x]/a", "[bold]loud[/bold]", "one:smile:two", "[link=x]y", "C:\\[a]\\")


@pytest.mark.parametrize("text", TEXTS)
def test_a_table_shows_titles_headings_and_cells_as_they_are(text, capsys):
    output.print_table(f"title {text}", [f"head {text}", "n"], [[f"cell {text}", 1]])

    shown = capsys.readouterr().out
    for part in ("title", "head", "cell"):
        assert f"{part} {text}" in shown


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_table_that_is_too_wide_leaves_out_its_last_columns_and_cuts_nothing(
    width, capsys, monkeypatch
):
    monkeypatch.setattr(output, "LOG_WIDTH", width)
    columns = ["name", *(f"metric number {place}" for place in range(6))]
    rows = [["a system of some length", *(0.123456 + place for place in range(6))]] * 2

    output.print_table("title", columns, rows)

    shown = capsys.readouterr().out
    table, _, left_out = shown.partition("not shown, for want of width: ")
    lengths = {len(line) for line in table.splitlines()[1:]}
    assert max(lengths) <= width
    assert "…" not in shown
    fitting = (width - 1 - 23) // 18  # 20 + 3, text that may wrap; 15 + 3.
    for place in range(6):
        assert (f"metric number {place}" in table) == (place < fitting)
        assert (f"metric number {place}" in left_out) == (place >= fitting)
        assert (f"{place}.1235" in table) == (place < fitting)


def test_text_that_is_too_wide_is_wrapped(capsys, monkeypatch):
    monkeypatch.setattr(output, "LOG_WIDTH", 30)

    output.print_table("title", ["what", "n"], [["word " * 20, 1]])

    shown = capsys.readouterr().out
    assert shown.count("word") == 20
    assert max(map(len, shown.splitlines())) <= 30


@pytest.mark.parametrize("text", TEXTS)
def test_warnings_errors_and_progress_show_text_as_it_is_on_stderr(text, capsys):
    long = f"{text} " * 30

    output.warn(long)
    output.print_error(UserError(long))
    output.print_progress(long)

    assert capsys.readouterr() == ("", f"warning: {long}\nerror: {long}\n{long}\n")
