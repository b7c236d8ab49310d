"""Beam jobs: training data from interaction logs, and batch scoring."""
