"""A backtest -> its JSON file and its page."""

from pathlib import Path

from bokeh.embed import file_html
from bokeh.layouts import column
from bokeh.models.widgets import Div
from bokeh.resources import INLINE

from tfrs_twotower.evaluation.backtest import Backtest
from tfrs_twotower.evaluation.report.figures import recall_by_step
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import write_json

RESULT, PAGE = "backtest.json", "backtest.html"


def write_backtest(found: Backtest, folder: Path) -> Path:
    """Writes `backtest.json` and `backtest.html`, which needs no network, into a folder.

    Returns:
        The page.

    Raises:
        UserError: If they cannot be written.
    """
    table = found.to_frame()
    recalls = {name: table[name].iloc[:-1].tolist() for name in found.policies}
    drawing = recall_by_step(found.k, table.index[:-1].tolist(), recalls)
    words = Div(text=f"<h2>Backtest</h2><p>{found.title}</p>", sizing_mode="stretch_width")
    numbers = Div(text=table.to_html(float_format="{:.4f}".format), sizing_mode="stretch_width")
    page = column(words, drawing, numbers, sizing_mode="stretch_width")
    file = folder / PAGE
    beside = file.with_suffix(".tmp")
    try:
        write_json(folder / RESULT, found.as_dict())
        beside.write_text(file_html(page, INLINE, "Backtest"), encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return file
