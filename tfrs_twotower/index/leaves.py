"""The corpus in leaves of candidates that lie together: spherical k-means, large leaves halved."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# K-means converges to a useful partition on a part of the corpus.
SAMPLED_A_LEAF, ROUNDS = 64, 8
POWER_ROUNDS = 6
# Elements of a matrix of scores that is in memory at once: 256 MB of float32.
SCORED_AT_ONCE = 64_000_000


def partition(embeddings: Floats, num_leaves: int, leaf_size: int) -> list[Ints]:
    """Partitions the rows of a matrix into leaves; the same matrix gives the same leaves.

    Args:
        embeddings: `[num_rows, dim]`, at least one row; taken as directions.
        num_leaves: How many centres k-means has, 1 to `num_rows`.
        leaf_size: A leaf with more rows is halved until none has more.

    Returns:
        Rows by leaf, ascending within it; none is empty.
    """
    centres = _spherical_k_means(embeddings, num_leaves)
    halves: list[Ints] = []
    for rows in _by_group(_nearest(embeddings, centres), num_leaves):
        halves += _halved(embeddings, rows, leaf_size)
    return [np.sort(rows) for rows in halves if len(rows)]


def _spherical_k_means(embeddings: Floats, num_centres: int) -> Floats:
    """Centres of length 1 (Dhillon & Modha 2001)."""
    # Seeded by nothing: a corpus has one index.
    draw = np.random.default_rng(0)
    size = min(len(embeddings), SAMPLED_A_LEAF * num_centres)
    sample = embeddings[np.sort(draw.choice(len(embeddings), size, replace=False))]
    centres = sample[np.sort(draw.choice(size, num_centres, replace=False))]
    for _ in range(ROUNDS):
        members = _by_group(_nearest(sample, centres), num_centres)
        sums = np.stack(
            [
                sample[rows].sum(axis=0) if len(rows) else centre
                for rows, centre in zip(members, centres, strict=True)
            ]
        )
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _nearest(rows: Floats, centres: Floats) -> Ints:
    """`[num_rows]` the centre with the largest dot product, the first of equal ones."""
    step = max(SCORED_AT_ONCE // len(centres), 1)
    return np.concatenate(
        [
            np.argmax(rows[first : first + step] @ centres.T, axis=1)
            for first in range(0, len(rows), step)
        ]
    )


def _by_group(groups: Ints, num_groups: int) -> list[Ints]:
    """The places of each group, ascending."""
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(1, num_groups))
    return np.split(order, bounds)


def _halved(embeddings: Floats, rows: Ints, leaf_size: int) -> list[Ints]:
    """Parts of at most `leaf_size`, cut across the direction in which the rows differ most."""
    if len(rows) <= leaf_size:
        return [rows]
    differences = embeddings[rows] - embeddings[rows].mean(axis=0)
    direction = np.ones(embeddings.shape[1], np.float32)
    for _ in range(POWER_ROUNDS):
        direction = differences.T @ (differences @ direction)
        direction /= max(float(np.linalg.norm(direction)), 1e-12)
    order = np.argsort(differences @ direction, kind="stable")
    # In whole leaves, so that only the last of them has empty slots.
    num_parts = -(-len(rows) // leaf_size)
    cut = (num_parts // 2) * len(rows) // num_parts
    return _halved(embeddings, rows[order[:cut]], leaf_size) + _halved(
        embeddings, rows[order[cut:]], leaf_size
    )
