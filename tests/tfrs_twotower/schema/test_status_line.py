"""How far something is, told on a terminal, in a notebook and in a log file."""

import sys
from types import SimpleNamespace

import pytest

from tfrs_twotower.schema import status_line as module
from tfrs_twotower.schema.status_line import status_line


def test_a_log_file_gets_only_what_lasts(capsys):
    with status_line() as line:
        line.update("1 of 2")
        line.keep("done [2] :x:")

    assert capsys.readouterr().err == "done [2] :x:\n"


def test_what_is_not_shown_does_not_last(capsys):
    with status_line(is_shown=False) as line:
        line.update("1 of 2")
        line.keep("done")

    assert capsys.readouterr().err == ""


def test_a_notebook_shows_the_line_and_takes_it_away(capsys, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(module.time, "monotonic", lambda: 5.0)

    with status_line() as line:
        line.update("1 of 3")
        line.update("2 of 3", now=False)  # At the same moment: too soon to be seen.
        line.update("3 of 3")
        line.keep("done")

    assert shown == ["", "1 of 3", "3 of 3", ""]
    assert capsys.readouterr().err == "done\n"


@pytest.mark.parametrize("shell", [None, SimpleNamespace()])
def test_ipython_in_a_terminal_is_no_notebook(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    assert module.is_ipython() == (shell is not None)
    assert not module.is_notebook()
