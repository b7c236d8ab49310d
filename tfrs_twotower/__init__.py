"""Two-tower retrieval on TensorFlow Recommenders."""

__version__ = "0.1.0"
