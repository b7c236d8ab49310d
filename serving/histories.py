"""Queries completed from MongoDB: the profile as of the last export, the history as of now.

The web backend appends each positive event; the next query of the same user has it in its history,
and is not answered with the same candidate again. No process keeps a state.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from serving.queries import Query
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.models_layout import EXCLUDE_IDS
from tfrs_twotower.schema.mongodb import EVENTS, CurrentVersion, Store
from tfrs_twotower.schema.requests import fill_in

_QUERY_ID, _CANDIDATE_ID, _TIMESTAMP_S = "query_id", "candidate_id", "timestamp_s"
# Events of equal time are ordered by candidate, so that the order is total.
_NEWEST_FIRST = [(_TIMESTAMP_S, -1), (_CANDIDATE_ID, -1)]


class Histories:
    """The latest events of each query, in the database that `twotower embeddings --to` writes.

    Thread-safe; from asyncio call it by `asyncio.to_thread`.

    Example:
        with (
            Histories("mongodb://127.0.0.1/shop") as histories,
            RetrievalClient("127.0.0.1:8500") as client,
        ):
            answer = client.recommend_one(histories.complete({"user_id": "42"}), k=10)
            histories.append("42", answer.candidate_ids[0], time.time())
    """

    def __init__(self, address: str, *, limit: int = 200) -> None:
        """Connects, and makes the index where it is missing.

        Args:
            address: `mongodb://HOST:PORT/DATABASE`.
            limit: How many events of a query are kept, the latest ones: at least the length of the
                model's history. All are left out of answers where known positives are.

        Raises:
            UsageError: If the address is none, or the limit not positive.
            UserError: If the database does not answer, or pymongo is not installed.
        """
        if limit < 1:
            raise UsageError(f"limit must be at least 1, got {limit}")
        self._limit = limit
        self._store = Store(address)
        self._events = self._store.database[EVENTS]
        try:
            with self._store.errors_told():
                # It finds the events of a query in their order, and refuses the same event twice.
                self._events.create_index([(_QUERY_ID, 1), *_NEWEST_FIRST], unique=True)
        except UserError:
            self.close()
            raise

    def append(self, query_id: str, candidate_id: str, timestamp_s: float) -> None:
        """Adds an event in its place by time; the same event again changes nothing.

        Args:
            query_id: Of the user.
            candidate_id: What the user clicked, bought, played.
            timestamp_s: When, in Unix seconds. An event may come late; of more than `limit` the
                oldest are forgotten.

        Raises:
            UserError: If the database does not answer.
        """
        from pymongo.errors import DuplicateKeyError

        event = {
            _QUERY_ID: query_id,
            _CANDIDATE_ID: candidate_id,
            _TIMESTAMP_S: float(timestamp_s),
        }
        with self._store.errors_told():
            try:
                self._events.insert_one(event)
            except DuplicateKeyError:
                return
            found = self._events.find({_QUERY_ID: query_id}, ["_id"]).sort(_NEWEST_FIRST)
            forgotten = [document["_id"] for document in found.skip(self._limit)]
            if forgotten:
                self._events.delete_many({"_id": {"$in": forgotten}})

    def latest(self, query_id: str) -> list[str]:
        """The candidates of a query's latest events, oldest first, at most `limit`.

        Raises:
            UserError: If the database does not answer.
        """
        with self._store.errors_told():
            found = self._events.find({_QUERY_ID: query_id}).sort(_NEWEST_FIRST).limit(self._limit)
            return [document[_CANDIDATE_ID] for document in found][::-1]

    def complete(self, query: Query, *, exclude_known: bool | None = None) -> dict[str, Any]:
        """Adds what the database holds of a query: profile, history and known positives.

        Args:
            query: Values by feature name, and the query's id under its feature's name (for a model
                without an id feature: under the name of the id column).
            exclude_known: Whether to leave out what the query already had; None: as
                `rules.exclude_known` of the config says.

        Returns:
            The given values; for the other features of the query those known, else None. The
            history is that of the models folder followed by the latest events. What the query
            already had is in `exclude_ids`.

        Raises:
            UserError: If the database has no embeddings yet, or does not answer.
        """
        version, profile = self._store.of_current(lambda version: self._profile(version, query))
        query_id = query.get(version.query_key)
        latest = [] if query_id is None else self.latest(str(query_id))
        known = {**profile, EXCLUDE_IDS: [*profile.get(EXCLUDE_IDS, ()), *latest]}
        if version.history is not None:
            whole = [*profile.get(version.history, ()), *latest]
            known[version.history] = whole[-version.history_length :]
        return fill_in(
            query,
            known,
            key=version.query_key,
            features=version.features,
            history=version.history,
            exclude_known=version.exclude_known if exclude_known is None else exclude_known,
        )

    def _profile(
        self, version: CurrentVersion, query: Query
    ) -> tuple[CurrentVersion, Mapping[str, Any]]:
        query_id = query.get(version.query_key)
        wanted = {"_id": str(query_id)}
        found = self._store.queries(version).find_one(wanted, {"features": True})
        return version, found["features"] if found else {}

    def close(self) -> None:
        """Closes the connections."""
        self._store.close()

    def __enter__(self) -> Self:
        """Is connected already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        self.close()
