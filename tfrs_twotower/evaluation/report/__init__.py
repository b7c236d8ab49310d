"""The report of a run: one HTML page that opens without a network."""

from tfrs_twotower.evaluation.report.page import write_report

__all__ = ["write_report"]
