"""Two-tower retrieval on TensorFlow Recommenders; the steps as functions are in `api`."""

__version__ = "0.1.0"
