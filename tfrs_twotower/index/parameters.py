"""How a tree is built and searched: its parameters, their defaults, and what they cost.

`IndexParameters` are those of ScaNN's tree, `IvfParameters` those of inverted lists.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from tfrs_twotower.schema.index import Index as IndexConfig

# Below this many candidates a tree has nothing to save, and ScaNN cannot train its quantisation:
# it needs 16 candidates, one for each value of a code.
SMALLEST_TREE = 256
# On average; leaves of a few candidates cost more to choose among than to scan.
CANDIDATES_PER_LEAF = 16

DEFAULT_DIMENSIONS_PER_BLOCK, DEFAULT_REORDER = 2, 500
DEFAULT_ANISOTROPIC_THRESHOLD, DEFAULT_AT = 0.2, 100
DEFAULT_LEAF_DTYPE = "float32"
LEAF_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

# What a byte costs beside one of the codes, which are read in order: measured on 1 M candidates of
# 64 dimensions. Leaf centres are read in order as well, once for all queries of a batch; rescored
# candidates lie anywhere in memory.
CENTRE_WEIGHT, RESCORED_WEIGHT = 0.5, 6
# That are tried when a tree is tuned: leaves relative to the square root of the corpus.
LEAF_FACTORS = (2, 4)
# Inverted lists: leaves relative to the square root of the corpus.
IVF_LEAF_FACTOR = 4


@dataclass(frozen=True, order=True, kw_only=True)
class IndexParameters:
    """How a tree is built and searched.

    Attributes:
        num_leaves: Into how many leaves the corpus is partitioned, by k-means; 1 or more.
        dimensions_per_block: How many dimensions share four bits of a quantised code; 1 or more.
        leaves_to_search: In how many leaves a query is searched, 1 to `num_leaves`; more of them
            for a k above `at`.
        reorder: How many candidates are scored again, exactly; 1 or more, and at least as many as
            a query wants.
        anisotropic_threshold: From which dot product on quantisation errors along an embedding
            weigh more than those across it (Guo et al. 2020, "Accelerating Large-Scale Inference
            with Anisotropic Vector Quantization"); 0 or more.
        at: The k that `leaves_to_search` and `reorder` suit; larger ones widen the search.
    """

    num_leaves: int
    dimensions_per_block: int = DEFAULT_DIMENSIONS_PER_BLOCK
    leaves_to_search: int
    reorder: int = DEFAULT_REORDER
    anisotropic_threshold: float = DEFAULT_ANISOTROPIC_THRESHOLD
    at: int = DEFAULT_AT

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: If a value is out of range.
        """
        for name in ("num_leaves", "dimensions_per_block", "leaves_to_search", "reorder", "at"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        if self.leaves_to_search > self.num_leaves:
            raise ValueError(
                f"`leaves_to_search` must be at most `num_leaves`, {self.num_leaves}, got "
                f"{self.leaves_to_search}."
            )

    @classmethod
    def for_corpus(
        cls,
        num_candidates: int,
        *,
        num_leaves: int | None = None,
        dimensions_per_block: int | None = None,
        leaves_to_search: int | None = None,
        reorder: int | None = None,
        anisotropic_threshold: float = DEFAULT_ANISOTROPIC_THRESHOLD,
        at: int = DEFAULT_AT,
    ) -> Self:
        """Parameters of a corpus; those that are not given have their defaults.

        Args:
            num_candidates: Of the corpus, 1 or more.
            num_leaves: Default: the square root of the corpus size. Leaves hold at least 16
                candidates on average, so a small corpus has fewer.
            dimensions_per_block: Default: 2.
            leaves_to_search: Default: a tenth of the leaves.
            reorder: Default: 500.
            anisotropic_threshold: See `IndexParameters`.
            at: See `IndexParameters`.
        """
        leaves = min(num_leaves or math.isqrt(num_candidates), most_leaves(num_candidates))
        return cls(
            num_leaves=leaves,
            dimensions_per_block=dimensions_per_block or DEFAULT_DIMENSIONS_PER_BLOCK,
            leaves_to_search=min(leaves_to_search or math.ceil(leaves / 10), leaves),
            reorder=reorder or DEFAULT_REORDER,
            anisotropic_threshold=anisotropic_threshold,
            at=at,
        )

    @classmethod
    def from_config(cls, config: IndexConfig, num_candidates: int) -> Self | None:
        """Parameters of a corpus by `index` of a config that are not tuned; None: brute force."""
        if not has_tree(config, num_candidates):
            return None
        return cls.for_corpus(
            num_candidates,
            num_leaves=config.num_leaves,
            dimensions_per_block=config.dimensions_per_block,
            leaves_to_search=config.leaves_to_search,
            reorder=config.reorder,
            anisotropic_threshold=config.anisotropic_threshold,
            at=config.at,
        )

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self | None:
        """Parameters that a manifest holds as `index`; None: brute force."""
        names = {field.name for field in fields(cls)} & description.keys()
        return cls(**{name: description[name] for name in names}) if names else None

    @property
    def counts(self) -> tuple[int, ...]:
        """What may differ from search to search of one tree."""
        return self.leaves_to_search, self.reorder

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def cost_bytes(self, num_candidates: int, embedding_dim: int) -> int:
        """Bytes that a query reads: all leaf centres, codes of the leaves searched, rescored rows.

        They count as much as as many bytes of codes would. Leaves are taken to be of one size.

        Args:
            num_candidates: Of the corpus.
            embedding_dim: Width of an embedding.
        """
        row = 4 * embedding_dim
        code = math.ceil(embedding_dim / self.dimensions_per_block) / 2
        scanned = num_candidates * self.leaves_to_search / self.num_leaves
        centres = CENTRE_WEIGHT * self.num_leaves * row
        return int(centres + scanned * code + RESCORED_WEIGHT * self.reorder * row)


@dataclass(frozen=True, order=True, kw_only=True)
class IvfParameters:
    """How inverted lists are built and searched.

    Attributes:
        num_leaves: Into how many leaves k-means partitions the corpus; 1 or more.
        leaf_size: Leaves of more candidates are halved until they hold at most so many, so that a
            leaf is a block of memory of one size; 1 or more.
        leaves_to_search: In how many leaves, after halving, a query is searched; 1 or more; in
            more of them for a k above `at`.
        at: The k that `leaves_to_search` suits.
        leaf_dtype: Of the embeddings in the leaves, "float32" or "bfloat16".
    """

    num_leaves: int
    leaf_size: int
    leaves_to_search: int
    at: int = DEFAULT_AT
    leaf_dtype: str = DEFAULT_LEAF_DTYPE

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            ValueError: If a value is out of range.
        """
        for name in ("num_leaves", "leaf_size", "leaves_to_search", "at"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")

    @classmethod
    def for_corpus(
        cls,
        num_candidates: int,
        *,
        num_leaves: int | None = None,
        leaves_to_search: int | None = None,
        at: int = DEFAULT_AT,
        leaf_dtype: str = DEFAULT_LEAF_DTYPE,
    ) -> Self:
        """Parameters of a corpus; those that are not given have their defaults.

        Args:
            num_candidates: Of the corpus, 1 or more.
            num_leaves: Default: four times the square root of the corpus size. Leaves hold at
                least 16 candidates on average, so a small corpus has fewer.
            leaves_to_search: Default: a hundredth of the leaves, and at least eight.
            at: See `IvfParameters`.
            leaf_dtype: See `IvfParameters`.
        """
        leaves = num_leaves or IVF_LEAF_FACTOR * math.isqrt(num_candidates)
        leaves = min(leaves, most_leaves(num_candidates))
        return cls(
            num_leaves=leaves,
            leaf_size=math.ceil(num_candidates / leaves),
            leaves_to_search=leaves_to_search or max(math.ceil(leaves / 100), 8),
            at=at,
            leaf_dtype=leaf_dtype,
        )

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Parameters that a manifest holds as `index`."""
        names = {field.name for field in fields(cls)} & description.keys()
        return cls(**{name: description[name] for name in names})

    @property
    def counts(self) -> tuple[int, ...]:
        """What may differ from search to search of one partition."""
        return (self.leaves_to_search,)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def cost_bytes(self, num_candidates: int, embedding_dim: int) -> int:
        """Bytes that a query reads: all leaf centres, and the leaves searched.

        Args:
            num_candidates: Of the corpus; of no account.
            embedding_dim: Width of an embedding.
        """
        centres = CENTRE_WEIGHT * self.num_leaves * 4 * embedding_dim
        row = LEAF_DTYPE_BYTES[self.leaf_dtype] * embedding_dim
        return int(centres + self.leaves_to_search * self.leaf_size * row)


# Of an index whose parameters are tuned.
Parameters = IndexParameters | IvfParameters


def most_leaves(num_candidates: int) -> int:
    """The largest number of leaves that a corpus may have."""
    return max(num_candidates // CANDIDATES_PER_LEAF, 1)


def has_tree(config: IndexConfig, num_candidates: int) -> bool:
    """Whether a corpus of that size is searched by a tree, not by brute force."""
    return num_candidates >= max(config.brute_force_below, SMALLEST_TREE)
