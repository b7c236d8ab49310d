"""Beam jobs: training data from interaction logs, and batch scoring."""

import os

# TensorFlow's C++ start-up writes lines that no user of a job can act on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
