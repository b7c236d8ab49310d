"""Queries, as people write them, to the inputs of a signature."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError
from serving.tensors import TEXT, Array, Signature, TensorSpec, describe, dtype_name

# The input that makes the columns of the answer.
COLUMNS = "candidate_ids"

Query = Mapping[str, Any]
"""Feature name to value: a scalar, a list, or None for "not known"."""


def as_rows(queries: Query | Sequence[Query]) -> Sequence[Query]:
    """One query or several as a list.

    Raises:
        InvalidRequestError: If there is none.
    """
    rows = [queries] if isinstance(queries, Mapping) else list(queries)
    if not rows:
        raise InvalidRequestError("no query: give one, or several")
    return rows


def build_inputs(
    signature: Signature, rows: Sequence[Query], extra: Mapping[str, Any]
) -> dict[str, Array]:
    """Turns queries into the inputs of a signature, one row a query.

    Args:
        signature: What the inputs must be like.
        rows: The queries, at least one.
        extra: Inputs given beside the queries: one value for all rows, or one each.

    Returns:
        Arrays by name. A feature that no query names is missing. For several queries the optional
        inputs that were left out are there too, once a query: a server that batches requests wants
        as many rows of every input.

    Raises:
        InvalidRequestError: If an input is unknown, or of another type; it is named.
    """
    required = signature.inputs.keys() - signature.defaults.keys() - extra.keys()
    for given in (extra, *rows):
        if unknown := given.keys() - signature.inputs.keys():
            raise InvalidRequestError(_unknown(min(unknown), signature))
    for row in rows:
        if twice := row.keys() & extra.keys():
            raise InvalidRequestError(
                f"{min(twice)} belongs to the call, not to a query: leave it out of the query"
            )
    inputs = {}
    for name, spec in signature.inputs.items():
        if name in extra:
            rank = len(spec.shape or ()) - 1
            inputs[name] = _column(name, spec, per_row(name, extra[name], rank, len(rows)))
        elif name in required:
            inputs[name] = _column(name, spec, [row.get(name) for row in rows])
        elif any(name in row for row in rows):
            default = signature.defaults[name][0].tolist()
            inputs[name] = _column(name, spec, [row.get(name, default) for row in rows])
        elif len(rows) > 1:
            inputs[name] = np.repeat(signature.defaults[name], len(rows), axis=0)
    return inputs


def per_row(name: str, value: Any, rank: int, num_rows: int) -> list[Any]:
    """One value of the given rank a row, from one for all rows or one each.

    Raises:
        InvalidRequestError: If there are neither one nor `num_rows`.
    """
    if _rank(value) <= rank:
        return [value] * num_rows
    values = list(value)
    if len(values) != num_rows:
        raise InvalidRequestError(f"{name} has {len(values)} rows for {num_rows} queries")
    return values


def _rank(value: Any) -> int:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return 0
    return 1 + max((_rank(item) for item in value), default=0)


def _unknown(name: str, signature: Signature) -> str:
    near = difflib.get_close_matches(name, signature.inputs, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(signature.inputs)}"
    return f"the model has no input {name}: {hint}"


def _column(name: str, spec: TensorSpec, values: Sequence[Any]) -> Array:
    """Stacks one value a row; None is unknown, lists are padded to one length.

    Lists of text start with "": a server that merges requests fills them up with their first text,
    and "" is ignored. Not so candidates to score, which have a column each in the answer.
    """
    shape = spec.shape or ()
    is_list = len(shape) == 2
    if is_list and any(_rank(value) != 1 for value in values if value is not None):
        raise InvalidRequestError(f"{name} takes a list of {dtype_name(spec.dtype)} values")
    try:
        if is_list:
            fixed = shape[1]
            start = [b""] if fixed < 0 and spec.dtype == TEXT and name != COLUMNS else []
            lists = [start + ([] if value is None else [*value]) for value in values]
            if fixed >= 0 and any(len(value) not in (0, fixed) for value in lists):
                raise InvalidRequestError(f"{name} takes {fixed} values")
            width = fixed if fixed >= 0 else max(1, *map(len, lists))
            cells = [
                [_cell(name, spec.dtype, item) for item in value + [None] * (width - len(value))]
                for value in lists
            ]
        else:
            cells = [_cell(name, spec.dtype, value) for value in values]
        array = _stack(name, spec.dtype, cells)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequestError(f"{name} takes {spec}: {error}") from error
    if not spec.fits(array.shape):
        raise InvalidRequestError(f"{name} takes {spec}, got {describe(array)}")
    return array


def _cell(name: str, dtype: np.dtype[Any], value: Any) -> Any:
    if dtype != TEXT:
        if value is None:
            return float("nan") if dtype.kind == "f" else 0
        return value
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    if not isinstance(value, str):
        raise InvalidRequestError(
            f'{name} takes text, got {type(value).__name__}: ids are text, such as "42"'
        )
    return value.encode()


def _stack(name: str, dtype: np.dtype[Any], cells: list[Any]) -> Array:
    if dtype == TEXT:
        return np.array(cells, object)
    array = np.asarray(cells)
    legal = "biuf" if dtype.kind == "f" else "biu"
    if array.dtype.kind not in legal:
        raise InvalidRequestError(f"{name} takes {dtype_name(dtype)} values, got {array.dtype}")
    if dtype.kind in "iu" and array.size and not _fits(array, dtype):
        raise InvalidRequestError(
            f"{name} takes {dtype_name(dtype)} values, got one out of its range"
        )
    return array.astype(dtype)


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= array.min() and array.max() <= limits.max)
