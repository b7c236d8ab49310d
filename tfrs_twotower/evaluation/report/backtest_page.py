"""A backtest -> its JSON file and its page."""

import html
from pathlib import Path

from bokeh.embed import components

from tfrs_twotower.evaluation.backtest import Backtest
from tfrs_twotower.evaluation.report.figures import recall_by_step
from tfrs_twotower.evaluation.report.library import bokeh_library
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import write_json

RESULT, PAGE = "backtest.json", "backtest.html"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Backtest</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; }}
  body {{ margin: 1rem auto; max-width: 1080px; padding: 0 1rem; }}
  div.table {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; }}
  th, td {{ text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e2e6ec; }}
</style>
{library}
</head>
<body>
<h1>Backtest</h1>
<p>{title}</p>
{drawing}
<div class="table">{table}</div>
{script}
</body>
</html>
"""


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
    script, drawn = components(drawing)
    page = _PAGE.format(
        library=bokeh_library(),
        title=html.escape(found.title),
        drawing=drawn,
        table=table.to_html(float_format="{:.4f}".format, border=0),
        script=script,
    )
    file = folder / PAGE
    beside = file.with_suffix(".tmp")
    try:
        write_json(folder / RESULT, found.as_dict())
        beside.write_text(page, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return file
