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


@pytest.mark.parametrize("text", TEXTS)
def test_warnings_errors_and_progress_show_text_as_it_is_on_stderr(text, capsys):
    long = f"{text} " * 30

    output.warn(long)
    output.print_error(UserError(long))
    output.print_progress(long)

    assert capsys.readouterr() == ("", f"warning: {long}\nerror: {long}\n{long}\n")
