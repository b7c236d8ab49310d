"""A small corpus like that of trained towers, and queries of it."""

import numpy as np

SIZE, DIMENSION, AT = 3000, 16, 20


def clustered(num_rows: int, seed: int, spread: float) -> np.ndarray:
    """Unit vectors around fifty fixed centres."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(50, DIMENSION))
    rows = centres[draw.integers(0, 50, num_rows)] + spread * draw.normal(
        size=(num_rows, DIMENSION)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


CANDIDATES = clustered(SIZE, seed=0, spread=0.5)
QUERIES = clustered(300, seed=1, spread=1.0)
OTHER_QUERIES = clustered(400, seed=2, spread=1.0)
