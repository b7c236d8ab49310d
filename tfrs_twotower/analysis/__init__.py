"""Closer looks at trained models: runs compared, answers explained, moments varied."""
