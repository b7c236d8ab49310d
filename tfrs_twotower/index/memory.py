"""How much memory building an index takes, forecast before it is built, and how much is free."""

import math
from pathlib import Path

from tfrs_twotower.index.parameters import (
    DEFAULT_DIMENSIONS_PER_BLOCK,
    LEAF_FACTORS,
    has_tree,
    most_leaves,
)
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.index import Index as IndexConfig

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_USAGE = Path("/sys/fs/cgroup/memory.current")
MEMINFO = Path("/proc/meminfo")

# While an index is built, the most that one of them takes. ScaNN: the variable and the searcher of
# the best tree so far, and of the next one also what is taken from its searcher and, for a moment,
# the embeddings in the order of the leaves. Inverted lists, half of whose slots may be empty: the
# variable, and of the lists the array, the tensor and the variable.
COPIES_WHILE_BUILDING = 7
# Of how many candidates ScaNN scores all leaves at once when it looks for leaf centres.
SAMPLED = 100_000
# While a graph with the index is written: the array, the variable, the buffer of the writer.
COPIES_WHILE_SAVING = 3


def build_bytes(num_candidates: int, embedding_dim: int, config: IndexConfig) -> int:
    """Forecast of the peak memory that building and saving the indexes takes.

    Beside the embeddings a tree holds a byte a block of dimensions and ScaNN its packed form, and
    for a while the scores of a sample with all leaves. With a target recall 0.70 and 1.45 GB are
    forecast for 100,000 and 300,000 candidates of 64 dimensions; 0.68 and 1.38 were measured.

    Args:
        num_candidates: Of the corpus.
        embedding_dim: Width of an embedding.
        config: Decides whether there is a tree.
    """
    embeddings = 4 * num_candidates * embedding_dim
    if not has_tree(config, num_candidates):
        return COPIES_WHILE_SAVING * embeddings
    # Tuning tries narrower blocks as well.
    block = 1 if config.target_recall else DEFAULT_DIMENSIONS_PER_BLOCK
    blocks = math.ceil(embedding_dim / (config.dimensions_per_block or block))
    factor = max(LEAF_FACTORS) if config.target_recall else 1
    leaves = config.num_leaves or factor * math.isqrt(num_candidates)
    leaves = min(leaves, most_leaves(num_candidates))
    scores = 4 * min(num_candidates, SAMPLED) * leaves
    return COPIES_WHILE_BUILDING * embeddings + 2 * num_candidates * blocks + scores


def available_bytes() -> int | None:
    """Memory that this process may still take; None where the system does not expose it."""
    found = []
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        kilobytes = next(line for line in lines if line.startswith("MemAvailable")).split()[1]
        found.append(1024 * int(kilobytes))
    except (OSError, StopIteration):
        pass
    try:
        limit = int(CGROUP_LIMIT.read_text(encoding="ascii"))
        found.append(limit - int(CGROUP_USAGE.read_text(encoding="ascii")))
    except (OSError, ValueError):  # No cgroup, or "max": no limit.
        pass
    return min(found, default=None)


def check_build(num_candidates: int, embedding_dim: int, config: IndexConfig) -> int:
    """The forecast of `build_bytes`.

    Raises:
        UserError: If there is less memory than that.
    """
    forecast = build_bytes(num_candidates, embedding_dim, config)
    what = f"an index of {num_candidates:,} candidates of {embedding_dim} dimensions takes about "
    cure = "lower `towers.embedding_dim`, or export on a larger machine"
    check_free(forecast, f"{what}{readable(forecast)} to build", cure)
    return forecast


def check_free(num_bytes: int, what: str, cure: str) -> None:
    """Checks that this process may still take so much.

    Args:
        num_bytes: How much.
        what: What takes it, for the message.
        cure: What helps, for the message.

    Raises:
        UserError: If there is less.
    """
    available = available_bytes()
    if available is not None and num_bytes > available:
        raise UserError(f"{what}, {readable(available)} are free: {cure}")


def readable(num_bytes: float) -> str:
    """A size for people."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
