"""A MongoDB database of embeddings, of what is known of queries, and of their latest events.

    versions               one document, `current`, replaced as a whole: see `CurrentVersion`
    candidates_<write>     `_id` (the candidate's id), `embedding`, `features`
    queries_<write>        `_id` (the query's id), `embedding` where it needs no context, `features`
    events                 `query_id`, `candidate_id`, `timestamp_s`; of no version

Embeddings are BSON vectors of float32: four bytes a number, where a list takes eleven and more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tfrs_twotower.schema.errors import UsageError, UserError, first_line

if TYPE_CHECKING:
    from bson import ObjectId
    from pymongo.collection import Collection
    from pymongo.database import Database

VERSIONS, CANDIDATES, QUERIES, EVENTS = "versions", "candidates", "queries", "events"
CURRENT = "current"
SCHEMES = ("mongodb://", "mongodb+srv://")

# The library's own 30 s are long for a web backend whose database is down.
_SERVER_SELECTION_MS = 5000
_OPTION = "serverSelectionTimeoutMS"

Document = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class CurrentVersion:
    """The version that readers take.

    Attributes:
        write: Names its collections; each write has one of its own.
        model_version: Of the models folder.
        schema_fingerprint: Of the config that the models were made with.
        embedding_dim: How many numbers an embedding has.
        num_candidates: How many candidates.
        num_queries: How many queries.
        has_query_embeddings: Whether the queries have embeddings, see `Config.context_mode`.
        query_key: The name under which a query gives its id.
        features: The features of a query, by the names of the inputs that they fill in.
        history: The feature that is the history; None: there is none.
        history_length: The longest history that the model reads.
        exclude_known: Whether a query's known positives are left out of its answers.
    """

    write: "ObjectId"
    model_version: int
    schema_fingerprint: str
    embedding_dim: int
    num_candidates: int
    num_queries: int
    has_query_embeddings: bool
    query_key: str
    features: list[str]
    history: str | None
    history_length: int
    exclude_known: bool


class Store:
    """A database by its address.

    Thread-safe, as the client of pymongo is; not across a fork.
    """

    def __init__(self, address: str) -> None:
        """Connects in the background; nothing is asked yet.

        Args:
            address: `mongodb://HOST:PORT/DATABASE`, with what else MongoDB's connection strings
                have: several hosts, user and password, options.

        Raises:
            UsageError: If that is no such address, or names no database.
            UserError: If pymongo is not installed.
        """
        try:
            from pymongo import MongoClient
            from pymongo.errors import PyMongoError
            from pymongo.uri_parser import parse_uri
        except ImportError as error:
            raise UserError(
                "MongoDB needs pymongo: pip install -e '.[mongodb]' in the clone"
            ) from error
        try:
            parsed = parse_uri(address)
        # Neither the address nor what the library says of it: there may be a password in them.
        except (PyMongoError, ValueError):
            raise UsageError("no address of MongoDB: expected mongodb://HOST/DATABASE") from None
        hosts = ",".join(f"{host}:{port}" for host, port in parsed["nodelist"])
        if not parsed["database"]:
            raise UsageError(
                f"the address of {hosts} names no database: mongodb://HOST/DATABASE does"
            )
        self.name = f"mongodb://{hosts}/{parsed['database']}"
        has_timeout = _OPTION in parsed["options"]
        given: dict[str, Any] = {} if has_timeout else {_OPTION: _SERVER_SELECTION_MS}
        self._client: MongoClient[Document] = MongoClient(address, **given)
        self.database: Database[Document] = self._client[parsed["database"]]

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def candidates(self, version: CurrentVersion) -> "Collection[Document]":
        """The candidates of a version."""
        return self.database[f"{CANDIDATES}_{version.write}"]

    def queries(self, version: CurrentVersion) -> "Collection[Document]":
        """The queries of a version."""
        return self.database[f"{QUERIES}_{version.write}"]

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """Turns the errors of the database into messages.

        Raises:
            UserError: Where the block meets one.
        """
        from pymongo.errors import PyMongoError, ServerSelectionTimeoutError

        try:
            yield
        except ServerSelectionTimeoutError as error:
            raise UserError(f"no MongoDB server answers at {self.name}: is it running?") from error
        except PyMongoError as error:
            raise UserError(f"{self.name}: {first_line(error)}") from error

    def find_current(self) -> CurrentVersion | None:
        """The version that readers take, if any has been written.

        Raises:
            UserError: If the database cannot be asked, or holds one in another layout.
        """
        with self.errors_told():
            document = self.database[VERSIONS].find_one({"_id": CURRENT}, {"_id": False})
        try:
            return None if document is None else CurrentVersion(**document)
        except TypeError as error:
            raise UserError(
                f"{self.name} was written by another tfrs_twotower: drop its collection "
                f"`{VERSIONS}` and write it anew with `twotower embeddings --to`"
            ) from error

    def of_current(self, read: Callable[[CurrentVersion], T]) -> T:
        """Reads of the current version, all of it of one version.

        Collections are dropped only after the current version has been replaced. So what was read
        is whole if it is current still; else it is read anew.

        Args:
            read: Reads what is wanted of a version.

        Raises:
            UserError: If there is no version, or the database cannot be asked.
        """
        version = self._current()
        while True:
            with self.errors_told():
                found = read(version)
            after = self._current()
            if after.write == version.write:
                return found
            version = after

    def _current(self) -> CurrentVersion:
        version = self.find_current()
        if version is None:
            raise UserError(
                f"{self.name} has no embeddings: write them with `twotower embeddings --to`"
            )
        return version
