"""Ranks offers by stored vectors alone: no model, no server, no TensorFlow.

Candidate vectors come from an export (`MODELS/candidates`), user vectors from any job that ran
the query tower; or both from MongoDB, where `twotower embeddings --to` writes them. A score is the
dot product of two vectors of length 1, the cosine that the served models give.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from serving.post_score import PostScore, adjusted
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.mongodb import SCHEMES, CurrentVersion, Document, Store

if TYPE_CHECKING:
    from pymongo.collection import Collection

CANDIDATE_ID, USER_ID = "candidate_id", "query_id"
EMBEDDING = "embedding"  # list<float>, one length in all rows
QUERY_EMBEDDING = "query_embedding"
COMPUTED_AT_S = "computed_at_s"  # optional, of user vectors: Unix seconds

Vector = npt.NDArray[np.float32]


class RankedOffer(NamedTuple):
    """An offer in its place."""

    candidate_id: str
    # Cosine, or what `post_score` makes of it; None: the candidate or the user is unknown.
    score: float | None


class _Vectors(NamedTuple):
    """Vectors of length 1 by id."""

    rows: dict[str, int]
    matrix: Vector  # [num_ids, dim]
    id_order: npt.NDArray[np.int64]  # [num_ids], place of a row's id among the sorted ids
    computed_at_s: npt.NDArray[np.float64]  # [num_ids], Unix seconds


class _Snapshot(NamedTuple):
    """What one reload brought; replaced as a whole."""

    candidates: _Vectors
    users: _Vectors


class SimilarityScorer:
    """Ranks a list of offers for a user.

    Thread-safe: `rank` works on the vectors of the last reload that succeeded, and a reload
    replaces all of them at once.

    Example:
        scorer = SimilarityScorer("models/candidates", "vectors/users", user_ttl_s=86400)
        scorer.rank("42", ["i7", "i9", "i1"])
    """

    def __init__(
        self,
        candidates_dir: str | Path,
        users_dir: str | Path | None = None,
        *,
        user_ttl_s: float | None = None,
        fallback_ids: Sequence[str] = (),
        post_score: PostScore | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the vectors.

        Args:
            candidates_dir: Folder of Parquet files with `candidate_id` and `embedding`; or of
                versions of it, such as `MODELS/candidates`: every reload reads the newest. Or the
                address of a database, `mongodb://HOST/DATABASE`, whose current version is read.
            users_dir: Folder of Parquet files with `query_id`, `embedding` and, optionally,
                `computed_at_s`, without which a vector is as old as its file; None: the users of
                the database, as old as their version, or else users are always given as vectors.
            user_ttl_s: A user vector older than this counts as unknown; None: never.
            fallback_ids: Candidates, best first, for example by popularity: the order of offers
                that cannot be scored.
            post_score: Makes of the scores those to rank by, see `serving.post_score`; it is given
                the offers that have one. None: they stay.
            clock: Tells the time in Unix seconds.

        Raises:
            UserError: See `reload`.
        """
        self._candidates_dir = candidates_dir
        self._users_dir = Path(users_dir) if users_dir is not None else None
        self._user_ttl_s = user_ttl_s
        self._fallback_places = {
            candidate_id: place for place, candidate_id in enumerate(fallback_ids)
        }
        self._post_score = post_score
        self._clock = clock
        self._reloading = threading.Lock()
        self._snapshot = self._read()

    def reload(self) -> None:
        """Reads the vectors anew; what was read before stays in use until all are read.

        Raises:
            UserError: If a file or the database cannot be read, ids repeat, or vectors are of
                several lengths or not finite; the vectors of before stay.
        """
        with self._reloading:
            self._snapshot = self._read()

    def rank(
        self, user: str | npt.ArrayLike, offer_ids: Sequence[str], limit: int | None = None
    ) -> list[RankedOffer]:
        """Orders offers for a user.

        Args:
            user: A user id, or a user vector `[dim]` of any length.
            offer_ids: The candidates to order; one given twice counts once.
            limit: How many to answer with; None: all.

        Returns:
            First the offers that have a score, best first, equal scores by id; then the others, in
            the order of `fallback_ids`, then as they were given. For a user who is unknown, or
            whose vector is too old, no offer has a score.

        Raises:
            UsageError: If a user vector is of another length than the candidates', or not finite.
        """
        candidates, users = self._snapshot
        offers = list(dict.fromkeys(offer_ids))
        vector = self._user_vector(user, candidates, users)
        if vector is None:
            return [RankedOffer(offer, None) for offer in self._fallback_order(offers)][:limit]
        rows = np.fromiter(
            (candidates.rows.get(offer, -1) for offer in offers), np.int64, len(offers)
        )
        known = rows[rows >= 0]
        scores = candidates.matrix[known] @ vector
        known_offers = [offer for offer, row in zip(offers, rows.tolist(), strict=True) if row >= 0]
        if self._post_score is not None and known_offers:
            query = {USER_ID: np.array([user], object)} if isinstance(user, str) else {}
            query = query or {QUERY_EMBEDDING: vector[np.newaxis]}
            ids = np.array([known_offers], object)
            scores = adjusted(self._post_score, ids, scores[np.newaxis], query)[0]
        order = np.lexsort((candidates.id_order[known], -scores))
        ranked = [
            RankedOffer(known_offers[place], score)
            for place, score in zip(order.tolist(), scores[order].tolist(), strict=True)
        ]
        if len(ranked) < len(offers):
            unknown = [offer for offer in offers if offer not in candidates.rows]
            ranked += [RankedOffer(offer, None) for offer in self._fallback_order(unknown)]
        return ranked[:limit]

    def _user_vector(
        self, user: str | npt.ArrayLike, candidates: _Vectors, users: _Vectors
    ) -> Vector | None:
        if isinstance(user, str):
            row = users.rows.get(user)
            if row is None:
                return None
            age_s = self._clock() - users.computed_at_s[row]
            is_old = self._user_ttl_s is not None and age_s > self._user_ttl_s
            return None if is_old else users.matrix[row]
        vector = np.asarray(user, np.float32)
        dim = candidates.matrix.shape[1]
        if vector.shape != (dim,) or not np.isfinite(vector).all():
            raise UsageError(
                f"a user vector must be {dim} finite numbers, got shape {vector.shape}"
            )
        return _normalized(vector[np.newaxis])[0]

    def _fallback_order(self, offers: list[str]) -> list[str]:
        last = len(self._fallback_places)
        return sorted(offers, key=lambda offer: self._fallback_places.get(offer, last))

    def _read(self) -> _Snapshot:
        candidates, users = _read_candidates_and_users(self._candidates_dir)
        if self._users_dir is None:
            return _Snapshot(candidates, users)
        users = _read_vectors(self._users_dir, USER_ID)
        dims = candidates.matrix.shape[1], users.matrix.shape[1]
        if dims[0] != dims[1]:
            raise UserError(
                f"{self._users_dir} has vectors of {dims[1]} numbers, {self._candidates_dir} of "
                f"{dims[0]}: make both with one version of the towers"
            )
        return _Snapshot(candidates, users)


def _read_candidates_and_users(source: str | Path) -> tuple[_Vectors, _Vectors]:
    if isinstance(source, str) and source.startswith(SCHEMES):
        store = Store(source)
        try:
            return store.of_current(lambda version: _read_version(store, version))
        finally:
            store.close()
    return _read_vectors(_newest_version(Path(source)), CANDIDATE_ID), _no_vectors()


def _read_version(store: Store, version: CurrentVersion) -> tuple[_Vectors, _Vectors]:
    computed_at_s = version.write.generation_time.timestamp()

    def read(collection: "Collection[Document]") -> _Vectors:
        ids, buffers = [], []
        for document in collection.find({}, {EMBEDDING: True}):
            ids.append(document["_id"])
            buffers.append(document[EMBEDDING].as_vector(return_numpy=True).data)
        matrix = np.array(buffers, np.float32).reshape(len(ids), -1)
        return _by_id(ids, matrix, np.full(len(ids), computed_at_s))

    candidates = read(store.candidates(version))
    users = read(store.queries(version)) if version.has_query_embeddings else _no_vectors()
    return candidates, users


def _newest_version(folder: Path) -> Path:
    """The newest version in a folder of versions; any other folder itself."""
    found = {path.parent for path in folder.glob("*/*.parquet") if path.parent.name.isdecimal()}
    return max(found, key=lambda version: int(version.name), default=folder)


def _no_vectors() -> _Vectors:
    return _Vectors({}, np.empty((0, 0), np.float32), np.empty(0, np.int64), np.empty(0))


def _read_vectors(folder: Path, id_column: str) -> _Vectors:
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise UserError(f"{folder} has no Parquet file with {id_column} and {EMBEDDING}")
    ids: list[str] = []
    matrices, times = [], []
    for path in paths:
        table = _read_table(path, id_column)
        ids += table[id_column].to_pylist()
        matrices.append(_matrix(table[EMBEDDING].combine_chunks(), path))
        if COMPUTED_AT_S in table.column_names:
            times.append(table[COMPUTED_AT_S].to_numpy().astype(np.float64))
        else:
            times.append(np.full(len(table), path.stat().st_mtime))
    if len({matrix.shape[1] for matrix in matrices if len(matrix)}) != 1:
        raise UserError(f"the vectors of {folder} are empty or of several lengths")
    if None in ids or len(set(ids)) < len(ids):
        raise UserError(f"the column {id_column} of {folder} has an id twice, or a missing one")
    matrix = np.concatenate([matrix for matrix in matrices if len(matrix)])
    return _by_id(ids, matrix, np.concatenate(times))


def _by_id(ids: list[str], matrix: Vector, computed_at_s: npt.NDArray[np.float64]) -> _Vectors:
    rows = {name: row for row, name in enumerate(ids)}
    id_order = np.empty(len(ids), np.int64)
    id_order[[rows[name] for name in sorted(ids)]] = np.arange(len(ids))
    return _Vectors(rows, _normalized(matrix), id_order, computed_at_s)


def _read_table(path: Path, id_column: str) -> pa.Table:
    try:
        names = pq.read_schema(path).names
        if missing := {id_column, EMBEDDING} - set(names):
            raise UserError(f"{path} has no column {min(missing)}")
        wanted = {id_column, EMBEDDING, COMPUTED_AT_S}
        return pq.read_table(path, columns=[name for name in names if name in wanted])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _matrix(column: Any, path: Path) -> Vector:
    """Lists of one length as `[num_rows, dim]`."""
    values = column.flatten()
    if column.null_count or values.null_count or (len(column) and len(values) % len(column)):
        raise UserError(f"{path}: every {EMBEDDING} must hold equally many numbers")
    dim = len(values) // max(len(column), 1)
    if not pa.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy()
        if (lengths != dim).any():
            raise UserError(f"{path}: every {EMBEDDING} must hold equally many numbers")
    matrix = values.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dim)
    if not np.isfinite(matrix).all():
        raise UserError(f"{path}: an {EMBEDDING} is not finite")
    return matrix


def _normalized(matrix: Vector) -> Vector:
    """Rows of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
