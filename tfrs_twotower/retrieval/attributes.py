"""What the rules of a request read of each candidate: filter values, numbers, category, time."""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.retrieval.lists import CandidateLists, Listed, NearLists
from tfrs_twotower.retrieval.ranges import RangeAttribute
from tfrs_twotower.retrieval.string_table import NO_ROW, StringTable
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.rules import Rules as RulesConfig

# Stands in for a missing value; unlike `NO_ROW` no request can ask for it.
NO_VALUE = -2


class FilterAttribute(tf.Module):
    """The values of one attribute, none or several a candidate."""

    def __init__(self, name: str, column: pa.Array) -> None:
        """Keeps the values as variables.

        Args:
            name: Of the attribute.
            column: One entry a candidate: text, a truth value, a whole number, or a list of them;
                null and "" are missing.

        Raises:
            UserError: If the column holds something else.
        """
        super().__init__()
        owners, values = filter_values(name, column)
        distinct, rows, counts = np.unique(values, return_inverse=True, return_counts=True)
        # A corpus without any value still needs a table to ask.
        self._table = StringTable(
            [text.encode() for text in distinct] or [b"-"], f"values of {name}"
        )
        self._values = tf.Variable(
            _padded(owners, rows, len(column)), trainable=False, name=f"values_of_{name}"
        )
        # The candidates by value; those of a value begin at its offset.
        by_value = np.lexsort([owners, rows])
        self._lists = CandidateLists(owners[by_value], name, len(column))
        self._offsets = tf.Variable(
            # One more than needed, for a corpus without any value.
            np.concatenate([[0], np.cumsum(counts), [len(owners)]]).astype(np.int32),
            trainable=False,
            name=f"offsets_by_{name}",
        )
        self._num_values = len(distinct)

    def rows(self, texts: tf.Tensor) -> tf.Tensor:
        """Rows, int64, of values of any shape; -1 where no candidate has the value."""
        rows = self._table.rows(texts)
        # Without any value in the corpus the stand-in is no value either.
        return tf.where(rows < self._num_values, rows, tf.constant(NO_ROW, tf.int64))

    def listed(self, value_rows: tf.Tensor) -> Listed:
        """The candidates that have one of the values, those with several as often.

        Args:
            value_rows: `[batch, n]` int64.
        """
        offsets = tf.convert_to_tensor(self._offsets)
        rows = tf.maximum(value_rows, 0)
        first, last = tf.gather(offsets, rows), tf.gather(offsets, rows + 1)
        return self._lists.listed(first, tf.where(value_rows == NO_ROW, first, last))

    def near(self, leaves: CandidateLeaves) -> NearLists:
        """The candidates of each value, in the order of the leaves of an index."""
        counts = np.diff(self._offsets.numpy())
        return NearLists(self._lists, np.repeat(np.arange(len(counts)), counts), leaves)

    def has_one_of(self, candidate_rows: tf.Tensor, value_rows: tf.Tensor) -> tf.Tensor:
        """Which candidates have at least one of the values.

        Args:
            candidate_rows: `[batch, n]` int64.
            value_rows: `[batch, m]` int64.

        Returns:
            `[batch, n]` bool.
        """
        values = tf.gather(tf.convert_to_tensor(self._values), candidate_rows)
        shape = tf.shape(values)
        flat = tf.cast(tf.reshape(values, [shape[0], shape[1] * shape[2]]), tf.int64)
        return tf.reduce_any(tf.reshape(is_among(flat, value_rows), shape), axis=2)


class CandidateAttributes(tf.Module):
    """The attributes of the corpus that rules read, in the order of candidate rows."""

    def __init__(self, config: RulesConfig, table: pa.Table) -> None:
        """Reads the columns that the config names.

        Args:
            config: Which column plays which role.
            table: One row a candidate.

        Raises:
            UserError: If a column is missing, or does not suit its role.
        """
        super().__init__()
        for name in config.columns:
            if name not in table.column_names:
                raise UserError(
                    f"`rules` names {name}, which the candidates lack; they have "
                    f"{', '.join(table.column_names)}"
                )

        def column(name: str) -> pa.Array:
            return table.column(name).combine_chunks()

        self.filters = {name: FilterAttribute(name, column(name)) for name in config.filters}
        self.ranges = {name: RangeAttribute(name, column(name)) for name in config.ranges}
        self.available_from: RangeAttribute | None = None
        self.available_until: RangeAttribute | None = None
        if config.available_from is not None:
            moments = column(config.available_from)
            self.available_from = RangeAttribute("available_from", moments, missing=-math.inf)
        if config.available_until is not None:
            moments = column(config.available_until)
            self.available_until = RangeAttribute("available_until", moments, missing=math.inf)
        self.categories: tf.Variable | None = None
        self.timestamps_s: tf.Variable | None = None
        if config.category is not None:
            categories = _categories(config.category, column(config.category))
            self.categories = tf.Variable(categories, trainable=False, name="categories")
            self.num_uncategorised = int((categories == NO_ROW).sum())
            sizes = np.bincount(categories[categories != NO_ROW], minlength=1)
            self.category_sizes = tf.Variable(
                sizes.astype(np.int32), trainable=False, name="category_sizes"
            )
        if config.timestamp is not None:
            timestamps = _timestamps(config.timestamp, column(config.timestamp))
            self.timestamps_s = tf.Variable(timestamps, trainable=False, name="timestamps_s")
            self.newest_s = int(timestamps.max())

    @property
    def bounded(self) -> list[RangeAttribute]:
        """The numbers that a request may bound: those of filters, then those of availability."""
        availability = (self.available_from, self.available_until)
        return [*self.ranges.values(), *(known for known in availability if known is not None)]


def is_among(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each of `rows` `[batch, n]` int64 is in its query's row of `others` `[batch, m]`.

    `NO_ROW` counts as being among any.
    """
    ascending = tf.sort(tf.pad(others, [[0, 0], [1, 0]], constant_values=NO_ROW), axis=1)
    # `tf.searchsorted` of the same, but for batches without rows.
    place = tf.raw_ops.LowerBound(sorted_inputs=ascending, values=rows)
    last = tf.shape(ascending)[1] - 1
    return tf.gather(ascending, tf.minimum(place, last), batch_dims=1) == rows


def filter_values(
    name: str, column: pa.Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
    """The values that requests can filter by, and the row of the candidate that each belongs to.

    Args:
        name: Of the attribute.
        column: See `FilterAttribute`.

    Returns:
        `[num_values]` rows, ascending, and `[num_values]` texts.

    Raises:
        UserError: See `FilterAttribute`.
    """
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if is_list:
        owners = pc.list_parent_indices(column).to_numpy()
        column = pc.list_flatten(column)
    else:
        owners = np.arange(len(column))
    texts = _texts(name, column)
    is_there = pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
    values = texts.to_numpy(zero_copy_only=False).astype(np.str_)
    return owners[is_there].astype(np.int64), values[is_there]


def _texts(name: str, column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        whole = column.to_numpy(zero_copy_only=False)
        if (np.isfinite(whole) & ~np.isin(whole, (0.0, 1.0))).any():
            raise UserError(
                f"`rules` names {name}, which holds numbers with fractions: filter by a category"
            )
        # What the candidates hold of a boolean feature.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.bool_()), pc.equal(column, 1.0))
    try:
        return pc.fill_null(pc.cast(column, pa.string()), "")
    except pa.ArrowException as error:
        raise UserError(
            f"`rules` names {name}, which is {column.type}: expected text, truth values, whole "
            "numbers or lists of them"
        ) from error


def _padded(
    owners: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], num_candidates: int
) -> npt.NDArray[np.int32]:
    """`[num_candidates, most]`: the values of each candidate from the left."""
    counts = np.bincount(owners, minlength=num_candidates)
    padded = np.full((num_candidates, max(counts.max(), 1)), NO_VALUE, np.int32)
    padded[np.arange(padded.shape[1]) < counts[:, np.newaxis]] = rows
    return padded


def _categories(name: str, column: pa.Array) -> npt.NDArray[np.int32]:
    """`[num_candidates]` the number of each candidate's category, `NO_ROW` where missing."""
    owners, values = filter_values(name, column)
    if (np.diff(owners) == 0).any():
        raise UserError(
            f"`rules.category` names {name}, of which a candidate has several values: name an "
            "attribute with one"
        )
    categories = np.full(len(column), NO_ROW, np.int32)
    categories[owners] = np.unique(values, return_inverse=True)[1]
    return categories


def _timestamps(name: str, column: pa.Array) -> npt.NDArray[np.int64]:
    """`[num_candidates]` Unix seconds; a candidate without time is as old as the oldest."""
    try:
        if pa.types.is_string(column.type):
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        seconds = pc.fill_null(pc.cast(column, pa.int64()), 0)
    except pa.ArrowException as error:
        raise UserError(
            f"`rules.timestamp` names {name}, which is no time in Unix seconds: {error}"
        ) from error
    values = seconds.to_numpy(zero_copy_only=False)
    is_there = values > 0
    oldest = values[is_there].min() if is_there.any() else 0
    return np.where(is_there, values, oldest).astype(np.int64)
