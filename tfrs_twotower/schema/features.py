"""Feature kinds: what a raw value is, how it is encoded, and what a missing one becomes.

A feature goes through three forms, named the same in every part of the project:

* raw: what the log, the candidates file and a serving request hold;
* encoded: what a training record holds, rows (int64) and numbers (float32);
* dense: the float32 vector a tower reads.

Raw to encoded is `features.encoding`, encoded to dense is `features.dense`; both sides of the
system run the same TensorFlow ops.

Rows are pinned: row 0 is missing/padding, then come the out-of-vocabulary buckets, then the
vocabulary (or, for hashed text, the buckets).
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Generic, Literal, NamedTuple, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from tfrs_twotower.schema.strict import Problem, Strict

MAX_DAYS = 36_525  # A century; moments end with the year 2099.


class Fill(Strict):
    """Stands in for a missing value, before encoding."""

    fill: str | float | bool


Missing = Literal["indicator", "zero"] | Fill
"""What a missing value becomes.

`zero`: the zero vector (for a normalised number: its mean). `indicator`: a learned vector of its
own (embedded kinds) or an extra 0/1 input beside a zero (numeric kinds). `{fill: VALUE}`: as if
the value had been VALUE.
"""


class _Feature(Strict):
    column: str | None = Field(None, description="Column of the data; default: the feature's name.")
    # Fields that shape the towers and not the records: they may change without a new `prepare`.
    tower_only: ClassVar[frozenset[str]] = frozenset()
    # What stands in for a missing value must be one.
    fill_type: ClassVar[tuple[type, str]] = (str, "text in quotes")

    def problems(self) -> Iterator[Problem]:
        """A fill that the feature could not have."""
        missing = getattr(self, "missing", None)
        fill_type, expected = self.fill_type
        if isinstance(missing, Fill) and not isinstance(missing.fill, fill_type):
            yield "missing.fill", f"must be {expected}, got {missing.fill!r}"


class _Embedded(_Feature):
    embedding_dim: PositiveInt | None = Field(
        None,
        description="Width. Default: `towers.embedding_dim` for ids and histories, otherwise 8.",
    )
    missing: Missing = "zero"


class _WithVocabulary(_Embedded):
    min_count: PositiveInt = Field(
        1, description="Tokens with fewer events in train are out of vocabulary."
    )
    max_size: PositiveInt | None = Field(
        None, description="Keep only so many of the most frequent tokens."
    )
    oov_buckets: PositiveInt = Field(1, description="Hash buckets for out-of-vocabulary tokens.")


class Id(_WithVocabulary):
    """The id of the query or the candidate. Raw: string; encoded: int64 row."""

    kind: Literal["id"] = "id"
    dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of ids that training replaces by an unknown one.",
    )
    tower_only: ClassVar[frozenset[str]] = frozenset({"embedding_dim", "dropout"})


class Categorical(_WithVocabulary):
    """One token of a vocabulary. Raw: string; encoded: int64 row."""

    kind: Literal["categorical"] = "categorical"
    tower_only: ClassVar[frozenset[str]] = frozenset({"embedding_dim"})


class MultiCategorical(_WithVocabulary):
    """Several tokens, mean-pooled. Raw: list of strings; encoded: `max_length` int64 rows."""

    kind: Literal["multi_categorical"] = "multi_categorical"
    separator: str = Field(
        "|", min_length=1, description="Separates the tokens if the file has text."
    )
    max_length: PositiveInt = Field(16, description="Further tokens of a list are not read.")
    tower_only: ClassVar[frozenset[str]] = frozenset({"embedding_dim"})


class Text(_Embedded):
    """Hashed words, mean-pooled. Raw: string; encoded: `max_length` int64 rows.

    Words are runs of Unicode letters, marks and digits, lower-cased.
    """

    kind: Literal["text"] = "text"
    buckets: PositiveInt = Field(4096, description="Hash buckets for the words.")
    max_length: PositiveInt = Field(32, description="Further words of a text are not read.")
    tower_only: ClassVar[frozenset[str]] = frozenset({"embedding_dim"})


class Aggregate(Strict):
    """A number computed from the log: what happened before the moment of an event.

    Among `features.context` it reads the earlier events of the event's query, among
    `features.candidate` those of its candidate, whatever their split; earlier is strictly before
    the event's second and, with `days`, at most so many days before. Of these events

    * `count` is the number of positives, 0 if there is none;
    * `recency` the days since the last positive, missing if there is none;
    * `mean` the mean `columns.value` of those that have one, missing if none has.

    `twotower prepare` computes it for every event. The candidates of the corpus have the value of
    the train part as of one second after its last event. A request, and the candidates of a
    refresh, give it like any other number, as of now.
    """

    what: Literal["count", "mean", "recency"]
    days: PositiveInt | None = Field(None, le=MAX_DAYS)

    def __str__(self) -> str:
        """A description, for messages."""
        of = {
            "count": "number of positives",
            "mean": "mean of `columns.value`",
            "recency": "days since the last positive",
        }
        return of[self.what] + (f" in {self.days} days" if self.days else "")


class Number(_Feature):
    """A number. Raw and encoded: float32, NaN if missing."""

    kind: Literal["number"] = "number"
    aggregate: Aggregate | None = Field(
        None,
        description="Compute the number from the log instead of reading a column: `{what: count | "
        "mean | recency, days: n}` over the earlier events of the query (under context) or of the "
        "candidate. `days: null`: all earlier events.",
    )
    normalize: Literal["standard", "log", "none"] = Field(
        "standard",
        description="standard: (x - mean) / std, both of train. log: the same for sign(x) * "
        "log(1 + |x|). none: x itself.",
    )
    missing: Missing = "indicator"
    tower_only: ClassVar[frozenset[str]] = frozenset({"normalize"})
    fill_type: ClassVar[tuple[type, str]] = (float, "a number")

    def problems(self) -> Iterator[Problem]:
        """A number from both a column and the log."""
        yield from super().problems()
        if self.aggregate is not None and self.column is not None:
            yield "aggregate", "is computed from the log, not read from a `column`: keep one"


class Boolean(_Feature):
    """A truth value. Raw and encoded: float32, 1 = true, 0 = false, NaN = missing."""

    kind: Literal["boolean"] = "boolean"
    missing: Missing = "indicator"
    fill_type: ClassVar[tuple[type, str]] = (bool, "true or false")


class Vector(_Feature):
    """A dense vector. Raw and encoded: `dimension` float32, all NaN if missing."""

    kind: Literal["vector"] = "vector"
    dimension: PositiveInt
    missing: Literal["indicator", "zero"] = "zero"


class Timestamp(_Embedded):
    """Parts of a moment. Raw: int64 Unix seconds, UTC (0 or less: missing); encoded: int64 rows.

    Encoded as one row a part, in the order of `parts`: 1 + the hour (0-23) or 1 + the weekday
    (0 = Monday) in `time_zone`, row 0 where missing.
    """

    kind: Literal["timestamp"] = "timestamp"
    parts: tuple[Literal["hour", "weekday"], ...] = Field(("hour", "weekday"), min_length=1)
    time_zone: str = "UTC"
    missing: Literal["indicator", "zero"] = "zero"
    tower_only: ClassVar[frozenset[str]] = frozenset({"embedding_dim"})

    @field_validator("parts", mode="before")
    @classmethod
    def _sequence(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("parts")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"a part is named twice: {', '.join(value)}")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        import zoneinfo

        try:
            zoneinfo.ZoneInfo(value)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(
                f"no time zone {value!r}; use an IANA name such as Europe/Paris"
            ) from error
        return value


class History(_Embedded):
    """The query's last `length` positive candidates before the event, oldest first.

    Raw: list of candidate ids, "" ignored; encoded: `length` int64 rows of the candidate id
    vocabulary, with `candidate_features` of a vocabulary of the whole corpus, padded with 0 at the
    end.

    `encoder: mean` knows no order; `gru` and `attention` read the candidates in their order and
    are trained on every position of a query's past in one pass.

    With `candidate_features` the embedding of a candidate is that of its id plus a linear map of
    the dense vectors of these features.
    """

    kind: Literal["history"] = "history"
    length: PositiveInt = 20
    missing: Literal["indicator", "zero"] = "zero"
    encoder: Literal["mean", "gru", "attention"] = "mean"
    blocks: PositiveInt | None = Field(None, description="Blocks of attention. Default: 2.")
    heads: PositiveInt | None = Field(None, description="Heads of attention. Default: 1.")
    convolution: NonNegativeInt | None = Field(
        None,
        description="How many of the last candidates a convolution ahead of each block of "
        "attention sums up; 0 for none. Default: 8.",
    )
    candidate_features: list[str] = Field(
        default_factory=list,
        description="Features of the candidate side that each candidate of the history is read "
        "with, beside its id; requests still give ids alone.",
    )
    dropout: float | None = Field(
        None,
        ge=0.0,
        lt=1.0,
        description="Dropout of gru and attention. Default: 0.1 for attention, 0 for gru.",
    )
    tower_only: ClassVar[frozenset[str]] = frozenset(
        {"embedding_dim", "encoder", "blocks", "heads", "convolution", "dropout"}
    )

    @property
    def is_ordered(self) -> bool:
        """Whether the encoder reads the order of the candidates."""
        return self.encoder != "mean"

    def problems(self) -> Iterator[Problem]:
        """A column, settings of another encoder, and a feature that is named twice."""
        yield from super().problems()
        if len(set(self.candidate_features)) < len(self.candidate_features):
            yield "candidate_features", "names a feature twice"
        if self.column is not None:
            yield "column", "a history is made from the interactions: it has no column"
        for name in ("blocks", "heads", "convolution"):
            if getattr(self, name) is not None and self.encoder != "attention":
                yield name, f"is a setting of `encoder: attention`, not of {self.encoder}"
        if self.dropout and not self.is_ordered:
            yield "dropout", "is a setting of `encoder: gru` and `attention`, not of mean"


Feature = (
    Id | Categorical | MultiCategorical | Text | Number | Boolean | Vector | Timestamp | History
)
AnyFeature = Annotated[Feature, Field(discriminator="kind")]

F_co = TypeVar("F_co", bound=Feature, covariant=True)


class NamedFeature(NamedTuple, Generic[F_co]):
    """A feature of a config with its name."""

    name: str
    feature: F_co


def is_aggregate(feature: Feature) -> bool:
    """Whether the feature is computed from the log, not read from a column."""
    return isinstance(feature, Number) and feature.aggregate is not None


WITH_VOCABULARY = (Id, Categorical, MultiCategorical)
