"""The library that pages carry within them."""

import pytest

from tfrs_twotower.evaluation.report.library import bokeh_library


def test_it_is_whole_where_panel_is_loaded():
    pytest.importorskip("panel")

    scripts = bokeh_library()

    assert "BEGIN bokeh.min.js" in scripts
    assert "<script src=" not in scripts
