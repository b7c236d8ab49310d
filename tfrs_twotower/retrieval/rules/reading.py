"""Reads the rules of a request: its inputs, what they mean where they are left out, and checks."""

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfrs_twotower.index.control_flow import rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes, FilterAttribute
from tfrs_twotower.retrieval.input_checks import Legal, assert_all, checked, count_rows, fit_batch
from tfrs_twotower.retrieval.placeholders import NO_ID, NO_SCORE
from tfrs_twotower.retrieval.ranges import HIGHEST, LOWEST, Range
from tfrs_twotower.retrieval.rules.request import Filter, Request
from tfrs_twotower.retrieval.string_table import NO_ROW, StringTable


class RequestReader(tf.Module):
    """Reads the rules that a corpus allows."""

    def __init__(
        self, candidate_ids: StringTable, attributes: CandidateAttributes | None, *, max_k: int
    ) -> None:
        """Joins the parts.

        Args:
            candidate_ids: The corpus.
            attributes: Of the corpus; None: there are none to filter or order by.
            max_k: The largest `k` a request may ask.
        """
        super().__init__()
        self._ids = candidate_ids
        self._filters = attributes.filters if attributes else {}
        self._numbers = attributes.ranges if attributes else {}
        self._available_from = attributes.available_from if attributes else None
        self._available_until = attributes.available_until if attributes else None
        availability = (self._available_from, self._available_until)
        self._has_availability = any(known is not None for known in availability)
        self._timestamps_s = attributes.timestamps_s if attributes else None
        self._categories = attributes.categories if attributes else None
        self._max_k = max_k

    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The inputs that carry rules, by name; all of them optional."""
        lists = ["exclude_ids", "allow_ids"]
        lists += [f"filter_{name}_{kind}" for name in self._filters for kind in ("any", "none")]
        scalars = {"k": tf.int32, "mmr_lambda": tf.float32, "min_score": tf.float32}
        if self._timestamps_s is not None:
            scalars |= {"half_life_s": tf.float32}
        if self._timestamps_s is not None or self._has_availability:
            scalars |= {"now_s": tf.int64}
        # Wide enough for Unix seconds.
        bounds = [f"filter_{name}_{kind}" for name in self._numbers for kind in ("min", "max")]
        scalars |= dict.fromkeys(bounds, tf.float64)
        if self._categories is not None:
            scalars |= {"max_per_category": tf.int32}
        return {
            **{name: tf.TensorSpec([None, None], tf.string, name) for name in lists},
            **{name: tf.TensorSpec([None], dtype, name) for name, dtype in scalars.items()},
        }

    def defaults(self, default_k: int) -> dict[str, tf.Tensor]:
        """The value of each input that means "no rule"; one row."""
        neutral: dict[str, Any] = {"k": default_k, "mmr_lambda": 1.0, "min_score": NO_SCORE}
        for name in self._numbers:
            neutral |= {f"filter_{name}_min": LOWEST, f"filter_{name}_max": HIGHEST}
        return {
            name: tf.constant([[NO_ID]])
            if spec.shape.rank == 2
            else tf.constant([neutral.get(name, 0)], spec.dtype)
            for name, spec in self.inputs().items()
        }

    def are_neutral(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> tf.Tensor:
        """Whether a request asks for its best `k` candidates and nothing else.

        Args:
            inputs: See `read`.
            num_queries: See `read`.

        Returns:
            bool scalar; false also where `read` would fail.
        """
        neutral = self.defaults(default_k=1)
        # A moment alone rules nothing out where candidates are always available.
        no_rules = ("k",) if self._has_availability else ("k", "now_s")
        scalars = [name for name in neutral if inputs[name].shape.rank == 1]
        is_off = [inputs[name] == neutral[name] for name in scalars if name not in no_rules]
        flat = tf.constant([-1])
        lists = [tf.reshape(inputs[name], flat) for name in neutral if name not in scalars]
        fits = fit_batch(count_rows({name: inputs[name] for name in neutral}), num_queries)
        is_neutral = [fits, *is_off, tf.concat(lists, axis=0) == NO_ID, self._is_k(inputs["k"])]
        return tf.reduce_all(tf.concat(is_neutral, axis=0))

    def _is_k(self, k: tf.Tensor) -> tf.Tensor:
        return (k >= 1) & (k <= self._max_k)

    def read(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> Request:
        """Checks the rules of a request and repeats those that came once for all queries.

        Args:
            inputs: At least those of `inputs`.
            num_queries: int32 scalar, the batch.

        Raises:
            tf.errors.InvalidArgumentError: When run, if a value is out of range or has neither one
                row nor one a query.
        """
        of_rules = {name: inputs[name] for name in self.inputs()}
        read = _InputReader(of_rules, checked(of_rules, num_queries, self._legal(of_rules)))
        allowed, has_allow_list = read.rows("allow_ids", self._ids)
        half_life_s, now_s = self._read_times(read)
        return Request(
            k=read.scalar("k", tf.int32),
            excluded=read.rows("exclude_ids", self._ids)[0],
            allowed=allowed,
            has_allow_list=has_allow_list,
            filters={
                name: _read_filter(read, name, attribute)
                for name, attribute in self._filters.items()
            },
            ranges=self._read_ranges(read, now_s),
            half_life_s=half_life_s,
            now_s=now_s,
            max_per_category=read.scalar("max_per_category", tf.int32),
            mmr_lambda=read.scalar("mmr_lambda", tf.float32),
            min_score=read.scalar("min_score", tf.float32),
        )

    def _read_times(self, read: "_InputReader") -> tuple[tf.Tensor, tf.Tensor]:
        """`half_life_s` and `now_s` of a request; zeros where the corpus has no times."""
        half_life_s, now_s = read.scalar("half_life_s", tf.float32), read.scalar("now_s", tf.int64)
        if self._timestamps_s is None:
            return half_life_s, now_s
        is_timed = (half_life_s == 0) | (now_s > 0)
        message = "`now_s` (Unix seconds) must be given with `half_life_s`"
        with tf.control_dependencies([assert_all(is_timed, [message])]):
            return half_life_s, tf.identity(now_s)

    def _legal(self, inputs: Mapping[str, tf.Tensor]) -> Iterator[Legal]:
        """What must hold of the values of a request."""
        most = f"between 1 and {self._max_k} (`export.max_k` of the config)"
        yield Legal("k", self._is_k(inputs["k"]), most)
        weight, least = inputs["mmr_lambda"], inputs["min_score"]
        yield Legal("mmr_lambda", (weight >= 0) & (weight <= 1), "between 0 and 1")
        yield Legal("min_score", ~tf.math.is_nan(least), "a number")
        if self._categories is not None:
            places = inputs["max_per_category"]
            yield Legal("max_per_category", places >= 0, "0 (off) or more")
        if self._timestamps_s is not None:
            half_life_s = inputs["half_life_s"]
            is_time = (half_life_s >= 0) & tf.math.is_finite(half_life_s)
            yield Legal("half_life_s", is_time, "0 (off) or seconds")
        for name in self._numbers:
            for kind in ("min", "max"):
                bound = f"filter_{name}_{kind}"
                yield Legal(bound, ~tf.math.is_nan(inputs[bound]), "a number")

    def _read_ranges(self, read: "_InputReader", now_s: tf.Tensor) -> tuple[Range, ...]:
        """The bounds of numbers, and those that the moment of the request sets."""
        ranges = []
        for name, attribute in self._numbers.items():
            bounds = (read.scalar(f"filter_{name}_{kind}", tf.float64) for kind in ("min", "max"))
            ranges.append(attribute.range(*bounds))
        if not self._has_availability:
            return tuple(ranges)
        now = tf.cast(now_s, tf.float64)
        lowest, highest = tf.fill(tf.shape(now), LOWEST), tf.fill(tf.shape(now), HIGHEST)
        if self._available_from is not None:
            most = tf.where(now_s > 0, now, highest)
            ranges.append(self._available_from.range(lowest, most))
        if self._available_until is not None:
            least = tf.where(now_s > 0, now, lowest)
            ranges.append(self._available_until.range(least, highest))
        return tuple(ranges)


class _InputReader:
    """Reads the inputs of a request, one row a query."""

    def __init__(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> None:
        """Joins the two.

        Args:
            inputs: Checked.
            num_queries: int32 scalar.
        """
        self._inputs = inputs
        self._one_each = tf.reshape(num_queries, [1])
        self._column = tf.zeros(tf.stack([num_queries, 1]), tf.int64)

    def scalar(self, name: str, dtype: tf.DType) -> tf.Tensor:
        """A number of each query, `[num_queries]`; 0 where the corpus has no such input."""
        values = self._inputs.get(name, tf.constant([0], dtype))
        return tf.broadcast_to(values, self._one_each)

    def rows(self, name: str, table: StringTable | FilterAttribute) -> tuple[tf.Tensor, tf.Tensor]:
        """The rows of a list of texts, `[batch, n]`, and whether it names any, `[batch]` bool."""
        texts = self._inputs[name]
        names_any = tf.reduce_any(texts != NO_ID, axis=1)
        rows = tf.cond(
            tf.reduce_any(names_any),
            rarely(lambda: table.rows(texts)),
            lambda: tf.fill(tf.shape(texts), tf.constant(NO_ROW, tf.int64)),
        )
        return rows + self._column, tf.broadcast_to(names_any, self._one_each)


def _read_filter(read: _InputReader, name: str, attribute: FilterAttribute) -> Filter:
    any_of, is_restricted = read.rows(f"filter_{name}_any", attribute)
    none_of, _ = read.rows(f"filter_{name}_none", attribute)
    return Filter(any_of, none_of, is_restricted)
