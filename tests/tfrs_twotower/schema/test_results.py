"""Results as text, HTML and frames."""

from dataclasses import dataclass

import pandas as pd

from tfrs_twotower.schema.results import MAX_ROWS, Tabular


@dataclass(frozen=True, repr=False)
class Losses(Tabular):
    values: tuple[float | None, ...]
    name: str = "run"

    @property
    def title(self) -> str:
        return f"Losses of {self.name}"

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"loss": self.values}, dtype=float)


def test_a_result_prints_its_title_and_its_numbers_to_four_digits():
    lines = repr(Losses((0.51234567, None))).splitlines()

    assert lines[0] == "Losses of run"
    assert [line.split() for line in lines[1:]] == [["loss"], ["0", "0.5123"], ["1", "-"]]


def test_a_long_table_is_cut_and_the_frame_is_whole():
    losses = Losses(tuple(range(250)))

    rows = [line.split()[0] for line in repr(losses).splitlines()[2:]]

    assert rows[0] == "0"
    assert rows[MAX_ROWS] == "249"
    assert len(losses.to_frame()) == 250


def test_a_result_without_rows_is_its_title():
    assert repr(Losses(())) == "Losses of run"
    assert Losses(())._repr_html_() == "<p>Losses of run</p>"


def test_a_notebook_shows_a_table_and_no_markup_of_the_data():
    shown = Losses((0.25,), name="<b>run</b>")._repr_html_()

    assert shown.startswith("<p>Losses of &lt;b&gt;run&lt;/b&gt;</p><table")
    assert "<td>0.2500</td>" in shown
