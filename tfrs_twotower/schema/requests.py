"""What a command gives to every query of a request: JSON in, inputs out, a refusal in one line."""

import difflib
import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfrs_twotower.schema.errors import UsageError, UserError
from tfrs_twotower.schema.models_layout import EXCLUDE_IDS

# A served graph reports a failed assertion as text alone, over gRPC as in this process: bracketed
# parts in one line, the place in the graph after them.
_ASSERTION = re.compile(r"assertion failed: (\[.*\])$", re.MULTILINE)
_PART = re.compile(r"\[(.*?)\](?= \[|$)")
_CONDITION = "Condition "  # Begins what TensorFlow adds to the message.


def json_object(option: str, text: str) -> dict[str, Any]:
    """Reads an option that is a JSON object.

    Args:
        option: Its name, for messages.
        text: Its value.

    Raises:
        UsageError: If the value is no JSON object.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{option} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"""{option}: expected an object such as '{{"user_id": "42"}}'""")
    return values


def fill_in(
    query: Mapping[str, Any],
    known: Mapping[str, Any],
    *,
    key: str,
    features: Collection[str],
    history: str | None,
    exclude_known: bool,
) -> dict[str, Any]:
    """Completes a query with what is known of it.

    Args:
        query: Values by feature name, and the query's id under `key`.
        known: Values by feature name, and known positives as `exclude_ids`.
        key: The name under which a query gives its id.
        features: The features of queries, without context.
        history: The feature that is the history, if there is one.
        exclude_known: Whether to exclude the known positives and the history.

    Returns:
        The given values; for the other features those known, else None; `exclude_ids`, sorted.
    """
    had = {*known.get(EXCLUDE_IDS, ()), *query.get(EXCLUDE_IDS, ())}
    profile = {name: value for name, value in known.items() if name != EXCLUDE_IDS}
    completed = {**dict.fromkeys(features), **profile, **query}
    if key not in features:  # A model without an id feature.
        completed.pop(key, None)
    if exclude_known:
        had |= {*((history and completed[history]) or ())}
        completed[EXCLUDE_IDS] = sorted(had - {""})
    return completed


def check_names(names: Iterable[str], known: Sequence[str], where: str) -> None:
    """Checks that a model has every input that is given.

    Args:
        names: Of the inputs that are given.
        known: Of the inputs that the model has.
        where: What gives them, for messages.

    Raises:
        UserError: If the model lacks one; the nearest name is suggested.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"it takes {', '.join(known)}"
            raise UserError(f"{where}: the model has no input `{name}`: {hint}")


def one_row(name: str, dtype: type, rank: int, value: object) -> np.ndarray:
    """A value that holds for all queries, as an input with one row.

    Args:
        name: Of the input.
        dtype: Of its elements; `object` for text.
        rank: 1 for one value a query, 2 for a list of them.
        value: As JSON holds it.

    Raises:
        UsageError: If the value is of another form.
    """
    is_whole = np.issubdtype(dtype, np.integer)
    parts = value if isinstance(value, list) else [value]
    legal = str if dtype is object else int if is_whole else (int, float)
    if isinstance(value, list) != (rank == 2) or not all(
        isinstance(part, legal) and not isinstance(part, bool) for part in parts
    ):
        kind = "text" if dtype is object else "a whole number" if is_whole else "a number"
        expected = kind if rank == 1 else f"a list ({kind})"
        raise UsageError(f"rule {name}: expected {expected}, got {value!r}")
    return np.array([value], dtype)


def refusal(message: str) -> str:
    """The message of a failed assertion of a served graph, without what TensorFlow adds to it.

    Args:
        message: Of the error that TensorFlow or the server raised; returned as it is where it is
            not of an assertion.
    """
    failed = _ASSERTION.search(message)
    if failed is None:
        return message
    parts = _PART.findall(failed.group(1))
    own = itertools.takewhile(lambda part: not part.startswith(_CONDITION), parts)
    return " ".join(own) or message
