"""The reports of a run and of a backtest: HTML pages that open without a network."""

from tfrs_twotower.evaluation.report.backtest_page import write_backtest
from tfrs_twotower.evaluation.report.page import write_report

__all__ = ["write_backtest", "write_report"]
