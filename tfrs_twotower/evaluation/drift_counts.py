"""Counts two samples by the same cells, batch by batch, for `drift_noise` to compare.

The first is a prepared folder, the second another one, or the queries that a server was asked.
Memory follows the vocabularies, the corpus and the number of queries, not the number of events.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import Arrays, Corpus, PreparedData
from tfrs_twotower.evaluation.drift_noise import (
    Counts,
    Distance,
    Measure,
    with_rare_cells_merged,
)
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import SPLITS
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import (
    WITH_VOCABULARY,
    Boolean,
    Feature,
    History,
    MultiCategorical,
    Text,
    Timestamp,
    Vector,
)

# Users are counted in so many groups, by a hash of their ids.
NUM_GROUPS = 256
# The most frequent tokens have cells of their own, the others share one.
MAX_TOKENS = 1000
# Points between which the coordinates of vectors are counted.
NUM_EDGES = 19

GROUP = "group"
VALUES, LENGTH, UNKNOWN = "values", "length", "unknown"
MISSING = -1
_NO_GROUP, _SEVERAL_GROUPS = -1, -2
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """A prepared folder and the splits of it that are compared."""

    data: PreparedData
    splits: tuple[str, ...]

    @cached_property
    def groups(self) -> Ints:
        """`[num_queries]` the group of each query."""
        ids = np.char.encode(self.data.query_ids(), "utf-8")
        return np.asarray(tf.strings.to_hash_bucket_fast(ids, NUM_GROUPS).numpy(), np.int64)

    @cached_property
    def corpus(self) -> Corpus:
        """The candidates, by row."""
        return self.data.corpus()

    @cached_property
    def candidates(self) -> Arrays:
        """Features of the candidates, without those that events have of their own."""
        own = self.data.config.candidate_aggregates
        features = self.corpus.features
        return {name: values for name, values in features.items() if name not in own}

    def batches(self, splits: Sequence[str] | None = None) -> Iterator[Arrays]:
        """The examples with the group of their query; None: of `splits` of the sample."""
        for split in self.splits if splits is None else splits:
            for batch in self.data.batches_of_examples(split):
                yield {**batch, GROUP: self.groups[batch[layout.QUERY_ROW]]}

    def tokens(self, feature: str) -> list[bytes]:
        """The vocabulary of a feature, most frequent first."""
        return (self.data.vocabulary_dir / f"{feature}.txt").read_bytes().split(b"\n")[:-1]


def measures(a: Sample, b: Sample) -> list[Measure]:
    """Counts both samples.

    Returns:
        For each feature its values, how often it is missing, how long a list is, and how often a
        token is out of vocabulary; the share of positives; the shares of cold queries and
        candidates after train.
    """
    cells = _cells(a, b)
    of_a, of_b = (_count(sample, cells, number) for number, sample in enumerate((a, b)))
    return _paired(of_a, of_b, cells)


def measures_of_queries(a: Sample, queries: Iterable[Arrays]) -> list[Measure]:
    """Counts the queries of a prepared folder's examples, and those that a server was asked.

    Args:
        a: The prepared folder.
        queries: Batches of encoded features of the query and the context, by its vocabularies, with
            the group of each query.

    Returns:
        As `measures`, without what only an event has. Tokens out of vocabulary are counted in the
        examples after train, from which no vocabulary is made; those of the query's id are there
        too, while its values, which query asks how often, are not.
    """
    config = a.data.config
    cells = {
        name: _cells_of_query(name, feature, a) for name, feature in config.query_features.items()
    }
    of_a, after_train, of_b = (
        {name: _FeatureCounts(of, folder) for name, of in cells.items()} for folder in (0, 0, 1)
    )
    for counts, batches in (
        (of_a, a.batches()),
        (after_train, a.batches(SPLITS[1:])),
        (of_b, queries),
    ):
        for batch in batches:
            for name, of_feature in counts.items():
                of_feature.add(batch[GROUP], batch[name])
    found_a, found_b = (
        {key: n for name, one in counts.items() for key, n in one.by_key(name).items()}
        for counts in (of_a, of_b)
    )
    for name, one in after_train.items():
        found_a |= {key: n for key, n in one.by_key(name).items() if key.what == UNKNOWN}
    if config.query_id is not None:
        found_a = {
            key: n for key, n in found_a.items() if key[:2] != (config.query_id.name, VALUES)
        }
    return _paired(found_a, found_b, cells)


def _paired(
    of_a: Mapping["_Key", Counts], of_b: Mapping["_Key", Counts], cells: Mapping[str, "_Cells"]
) -> list[Measure]:
    """The counts of both by what they count, where there is something to compare."""
    found = []
    for key in of_a:
        measure = Measure(*key, of_a[key], of_b[key])
        if key.what == LENGTH:
            lengths = (f"up to {n}" for n in range(1, 1 + measure.a.shape[-1]))
            measure = measure._replace(cells=(tuple(lengths),))
        if key.what == VALUES:
            measure = measure._replace(cells=cells[key.name].names)
            if key.distance == "total_variation":
                measure = with_rare_cells_merged(measure)
        found.append(measure)
    return [one for one in found if one.a.shape[-1] > 1]


class _Key(NamedTuple):
    """A measure without its counts."""

    name: str
    what: str
    distance: Distance = "total_variation"


# --- cells ----------------------------------------------------------------------------------


class _Cells(NamedTuple):
    """How the encoded values of a feature fall into cells.

    Attributes:
        num_cells: Of each of `width` distributions.
        width: 1, or the number of parts of a moment or of coordinates of a vector.
        max_length: Of a list of tokens; 0: no list.
        rows: For rows: the cell of each by folder, `MISSING` for what is missing.
        edges: For numbers: `[width, n]` ascending; a cell is between two of them.
        unknown: For tokens: whether each row is one that the first folder lacks, by folder.
        is_cut: Whether vocabularies leave out rare tokens; `unknown` is then out of vocabulary.
        distance: How distributions over the cells are compared.
        names: `[width][num_cells]` what the cells are; empty: they have no names.
    """

    num_cells: int
    width: int = 1
    max_length: int = 0
    rows: tuple[Ints, Ints] | None = None
    edges: npt.NDArray[np.float32] | None = None
    unknown: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None = None
    distance: Distance = "total_variation"
    is_cut: bool = False
    names: tuple[tuple[str, ...], ...] = ()

    def of(self, values: np.ndarray, folder: int) -> Ints:
        """`[batch, entries]` cells; entry e of `width` > 1 is of distribution e."""
        values = values.reshape(len(values), -1)
        if self.rows is not None:
            return self.rows[folder][values]
        assert self.edges is not None
        found = np.stack(
            [np.searchsorted(edges, values[:, e]) for e, edges in enumerate(self.edges)], axis=1
        )
        return np.where(np.isnan(values), MISSING, found).astype(np.int64)


def _cells(a: Sample, b: Sample) -> dict[str, _Cells]:
    config = a.data.config
    return {
        name: _cells_of(name, feature, a, b)
        for name, feature in {**config.query_features, **config.candidate_features}.items()
    }


def _cells_of_query(name: str, feature: Feature, a: Sample) -> _Cells:
    """Of a feature that both samples have by the first one's vocabulary."""
    cells = _cells_of(name, feature, a, a)
    if not isinstance(feature, (*WITH_VOCABULARY, History)):
        return cells
    candidate_id = a.data.config.candidate_id
    source = candidate_id[1] if isinstance(feature, History) and candidate_id else feature
    assert isinstance(source, WITH_VOCABULARY)
    return cells._replace(unknown=_out_of_vocabulary(cells, source.oov_buckets), is_cut=True)


def _cells_of(name: str, feature: Feature, a: Sample, b: Sample) -> _Cells:
    if isinstance(feature, WITH_VOCABULARY):
        own_ids = a.data.config.query_id
        cells = _cells_of_tokens(a.tokens(name), b.tokens(name), feature.oov_buckets)
        if isinstance(feature, MultiCategorical):
            cells = cells._replace(max_length=feature.max_length)
        if own_ids is not None and own_ids.name == name:
            # New users are expected: the shares of cold queries tell how many there are.
            return cells._replace(unknown=None)
        if feature.min_count > 1 or feature.max_size is not None:
            # Which tokens are rare differs by chance: each folder goes by its own vocabulary.
            return cells._replace(
                unknown=_out_of_vocabulary(cells, feature.oov_buckets), is_cut=True
            )
        return cells
    if isinstance(feature, History):
        candidate_id, source = a.data.config.candidate_id, a.data.config.history_vocabulary
        assert candidate_id is not None
        assert source is not None
        oov_buckets = candidate_id.feature.oov_buckets
        cells = _cells_of_tokens(a.tokens(source), b.tokens(source), oov_buckets)
        return cells._replace(unknown=None, max_length=feature.length)
    if isinstance(feature, Text):
        words = np.arange(FIRST_OOV_ROW + feature.buckets) % MAX_TOKENS
        words[0] = MISSING
        return _Cells(MAX_TOKENS, max_length=feature.max_length, rows=(words, words))
    if isinstance(feature, Timestamp):
        num_rows = {"hour": 25, "weekday": 8}
        size = max(num_rows[part] for part in feature.parts)
        rows = np.arange(size) - 1
        names = tuple(
            tuple(f"{part} {number}" for number in range(size - 1)) for part in feature.parts
        )
        return _Cells(size - 1, width=len(feature.parts), rows=(rows, rows), names=names)
    if isinstance(feature, Boolean):
        return _Cells(2, edges=np.array([[0.5]], np.float32), names=(("false", "true"),))
    edges = _edges_of_vector(name, feature, a) if isinstance(feature, Vector) else None
    if edges is None:
        quantiles = [sample.data.number_statistics[name].quantiles for sample in (a, b)]
        edges = np.unique(np.concatenate(quantiles).astype(np.float32))
        edges = edges[np.isfinite(edges)][np.newaxis]
    of_each = [""] if len(edges) == 1 else [f"coordinate {e} " for e in range(len(edges))]
    return _Cells(
        edges.shape[1] + 1,
        width=len(edges),
        edges=edges,
        distance="kolmogorov_smirnov",
        names=tuple(
            (*(f"{of}up to {edge:.4g}" for edge in row), f"{of}all")
            for of, row in zip(of_each, edges, strict=True)
        ),
    )


def _cells_of_tokens(a: list[bytes], b: list[bytes], oov_buckets: int) -> _Cells:
    """Cell 0 is of all tokens that are rare, or not in both vocabularies."""
    rank_a = {token: rank for rank, token in enumerate(a)}
    rank_b = {token: rank for rank, token in enumerate(b)}
    common = sorted(rank_a.keys() & rank_b.keys(), key=lambda t: (rank_a[t] + rank_b[t], t))
    cell_of = {token: cell for cell, token in enumerate(common[:MAX_TOKENS], 1)}

    def rows(tokens: list[bytes]) -> Ints:
        cells = [MISSING, *[0] * oov_buckets, *(cell_of.get(token, 0) for token in tokens)]
        return np.array(cells, np.int64)

    def unknown(tokens: list[bytes]) -> npt.NDArray[np.bool_]:
        return np.array([False, *[True] * oov_buckets, *(token not in rank_a for token in tokens)])

    return _Cells(
        1 + len(cell_of),
        rows=(rows(a), rows(b)),
        unknown=(unknown(a), unknown(b)),
        names=(("all others", *(token.decode("utf-8", "replace") for token in cell_of)),),
    )


def _out_of_vocabulary(
    cells: _Cells, oov_buckets: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    assert cells.rows is not None
    a, b = (np.arange(len(rows)) for rows in cells.rows)
    last = FIRST_OOV_ROW + oov_buckets
    return (a >= FIRST_OOV_ROW) & (a < last), (b >= FIRST_OOV_ROW) & (b < last)


def _edges_of_vector(name: str, feature: Vector, sample: Sample) -> npt.NDArray[np.float32]:
    """Quantiles of each coordinate among the first events, or the first candidates."""
    of_candidates = sample.candidates.get(name)
    values = of_candidates if of_candidates is not None else next(sample.batches())[name]
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        return np.zeros([feature.dimension, NUM_EDGES], np.float32)
    shares = np.linspace(0, 1, NUM_EDGES + 2)[1:-1]
    return np.quantile(values, shares, axis=0).T.astype(np.float32)


# --- counting -------------------------------------------------------------------------------


def _count(sample: Sample, cells: Mapping[str, _Cells], folder: int) -> dict[_Key, Counts]:
    """All measures of a folder, the first (0) or the second (1)."""
    features = {name: _FeatureCounts(of, folder) for name, of in cells.items()}
    labels = _yes_no()
    for batch in sample.batches():
        is_positive = batch[layout.LABEL] == 1
        _add(labels, batch[GROUP], is_positive)
        groups = batch[GROUP][is_positive]
        rows = batch[layout.CANDIDATE_ROW][is_positive]
        for name, counts in features.items():
            if name in sample.candidates:
                counts.add(groups, sample.candidates[name][rows])
            elif name in sample.data.config.candidate_features:
                counts.add(groups, batch[name][is_positive])
            else:
                counts.add(batch[GROUP], batch[name])
    found = {_Key("label", "positive"): labels, **_cold(sample)}
    for name, counts in features.items():
        found |= counts.by_key(name)
    return found


def _cold(sample: Sample) -> dict[_Key, Counts]:
    """Positives after train, whose query or candidate has no train positive."""
    data = sample.data
    is_cold_query = np.ones(len(sample.groups), np.bool_)
    is_cold_query[data.known_positives()[0]] = False
    is_cold_candidate = sample.corpus.train_counts == 0
    queries, candidates = _yes_no(), _yes_no()
    for split in SPLITS[1:]:
        for batch in data.batches_of_events(split):
            is_positive = batch[layout.LABEL] == 1
            rows = batch[layout.QUERY_ROW][is_positive]
            groups = sample.groups[rows]
            _add(queries, groups, is_cold_query[rows])
            _add(candidates, groups, is_cold_candidate[batch[layout.CANDIDATE_ROW][is_positive]])
    return {_Key("queries", "cold"): queries, _Key("candidates", "cold"): candidates}


def _yes_no() -> Counts:
    return np.zeros([NUM_GROUPS, 1, 2], np.int64)


def _add(counts: Counts, groups: Ints, cells: np.ndarray, distributions: Ints | int = 0) -> None:
    """Counts entries, given by their group, distribution and cell."""
    _, width, num_cells = counts.shape
    flat = (groups * width + distributions) * num_cells + cells
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)


class _FeatureCounts:
    """The counts of one feature."""

    def __init__(self, cells: _Cells, folder: int) -> None:
        self.cells, self._folder = cells, folder
        self.values: Counts = np.zeros([NUM_GROUPS, cells.width, cells.num_cells], np.int64)
        self.missing = _yes_no()
        self.lengths: Counts = np.zeros([NUM_GROUPS, 1, cells.max_length], np.int64)
        self._unknown = _yes_no()
        if cells.unknown is not None:
            num_rows = len(cells.unknown[folder])
            self._entries = np.zeros(num_rows, np.int64)
            self._group_of = np.full(num_rows, _NO_GROUP)

    def add(self, groups: Ints, encoded: np.ndarray) -> None:
        """Counts encoded values, given with the group of each."""
        cells = self.cells.of(encoded, self._folder)
        is_there = cells != MISSING
        _add(self.missing, groups, ~is_there.any(axis=1))
        if self.cells.max_length:
            lengths = is_there.sum(axis=1)
            _add(self.lengths, groups[lengths > 0], lengths[lengths > 0] - 1)
        group_of = np.broadcast_to(groups[:, np.newaxis], cells.shape)[is_there]
        width = self.cells.width
        entries = np.broadcast_to(np.arange(cells.shape[1]), cells.shape)[is_there]
        _add(self.values, group_of, cells[is_there], entries if width > 1 else 0)
        if self.cells.unknown is not None:
            self._add_tokens(group_of, encoded.reshape(cells.shape)[is_there])

    def by_key(self, name: str) -> dict[_Key, Counts]:
        """All that is counted of the feature, given its name."""
        found = {
            _Key(name, VALUES, self.cells.distance): self.values,
            _Key(name, "missing"): self.missing,
        }
        if self.cells.max_length:
            found[_Key(name, LENGTH, "kolmogorov_smirnov")] = self.lengths
        if self.cells.unknown is not None:
            found[_Key(name, UNKNOWN, "increase")] = self.unknown()
        return found

    def _add_tokens(self, groups: Ints, rows: np.ndarray) -> None:
        assert self.cells.unknown is not None
        _add(self._unknown, groups, self.cells.unknown[self._folder][rows])
        self._entries += np.bincount(rows, minlength=len(self._entries))
        for extreme in (np.minimum, np.maximum):
            first = np.full(len(self._entries), _NO_GROUP)
            first[rows] = groups
            extreme.at(first, rows, groups)
            is_new = self._group_of == _NO_GROUP
            differs = (first != _NO_GROUP) & ~is_new & (first != self._group_of)
            self._group_of = np.where(is_new, first, self._group_of)
            self._group_of[differs] = _SEVERAL_GROUPS

    def unknown(self) -> Counts:
        """Tokens that the first folder lacks.

        Within the first folder: those that a group has and no other, as a group of the second
        folder is compared with all groups of the first. So rare tokens, which any two samples do
        not share, are no drift.
        """
        assert self.cells.unknown is not None
        if self._folder == 1 or self.cells.is_cut:
            return self._unknown
        counts = self._unknown.copy()
        is_alone = (self._group_of >= 0) & ~self.cells.unknown[0]
        alone = np.bincount(
            self._group_of[is_alone], weights=self._entries[is_alone], minlength=NUM_GROUPS
        ).astype(np.int64)
        counts[:, 0, 1] += alone
        counts[:, 0, 0] -= alone
        return counts
