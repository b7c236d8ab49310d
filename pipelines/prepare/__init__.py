"""Prepares training data: interaction log in, prepared folder out."""

from pipelines.prepare.pipeline import main, prepare

__all__ = ["main", "prepare"]
