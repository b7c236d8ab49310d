"""Merges requests for the same signature into one run of its graph, and shares its answer out.

A graph answers many queries at once for little more than it takes for a few. Merged are requests
that a row-wise model answers as it would answer each alone: for the same signature of the same
version, with the same optional inputs (`k`, exclusions, rules), one row of each. What any of them
may be told besides an answer, it is told alone. ScaNN's own search is row-wise but for a candidate
at the border of its approximation, for a few queries in a thousand.
"""

import itertools
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.loading import Servable
from serving.queries import COLUMNS
from serving.tensors import Array, Signature

Outputs = dict[str, Array]

# A merged run holds every list as often, or as wide, as the largest asks: a request with more
# elements a row than this is run alone.
MAX_ROW_ELEMENTS = 4096


@dataclass(frozen=True)
class BatchingOptions:
    """How requests are merged.

    Attributes:
        max_batch_size: Most rows of a merged run.
        num_batch_threads: Runs at the same time; by default half the cores, for a run uses more
            than one, and what comes before and after it needs some.
        pad_variable_length_inputs: Whether lists of text of different lengths are merged, the
            shorter ones filled with "", which the models of this project ignore. Candidates to
            score are not filled up: each has its column in the answer.
    """

    max_batch_size: int = 1000
    num_batch_threads: int = max(1, (os.cpu_count() or 1) // 2)
    pad_variable_length_inputs: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """A signature to run.

    Attributes:
        servable: See `Servable.run`.
        signature: See `Servable.run`.
        inputs: See `Servable.run`.
        kind: Tasks of one kind may be merged; None: with no other.
    """

    servable: Servable
    signature: str
    inputs: Mapping[str, Array]
    kind: Hashable = None

    @property
    def num_rows(self) -> int:
        """Of a task that may be merged."""
        spec = self.servable.signatures[self.signature]
        return len(self.inputs[_first_required(spec)])


def kind_of(
    servable: Servable, signature_name: str, inputs: Mapping[str, Array], options: BatchingOptions
) -> Hashable:
    """What requests must have in common to be merged; None: these inputs cannot be merged."""
    signature = servable.signatures[signature_name]
    if not signature.is_batched:
        return None
    num_rows = len(inputs[_first_required(signature)])
    common: list[Hashable] = [id(servable), signature_name]
    for name, array in inputs.items():
        default = signature.defaults.get(name)
        if array is default:
            continue
        if math.prod(array.shape[1:]) > MAX_ROW_ELEMENTS:
            return None
        if default is None:
            if len(array) != num_rows or not num_rows:
                return None
            is_list_of_text = array.dtype == object and name != COLUMNS
            may_grow = options.pad_variable_length_inputs and is_list_of_text
            common.append(array.ndim if may_grow else array.shape[1:])
        elif len(array) != 1:
            return None
        else:
            values = tuple(array.flat) if array.dtype == object else array.tobytes()
            common.append((name, array.shape, values))
    return tuple(common)


def run_together(batch: Sequence[Task]) -> list[Outputs | Exception]:
    """Runs tasks of one kind, in one run where that can be done.

    Returns:
        For each task the outputs of its inputs alone, or why there are none.
    """
    return (len(batch) > 1 and _in_one_run(batch)) or [_alone(task) for task in batch]


def _in_one_run(batch: Sequence[Task]) -> list[Outputs | Exception]:
    """Each task's share of a merged run; nothing where there is none to share."""
    try:
        outputs = batch[0].servable.run(batch[0].signature, _merged(batch))
    except Exception:  # Of one of them, perhaps: the others must not suffer.
        return []
    return _shares(outputs, [task.num_rows for task in batch])


def _alone(task: Task) -> Outputs | Exception:
    try:
        return task.servable.run(task.signature, task.inputs)
    except Exception as error:
        return error


def _first_required(signature: Signature) -> str:
    return next(name for name in signature.inputs if name not in signature.defaults)


def _merged(batch: Sequence[Task]) -> dict[str, Array]:
    first = batch[0]
    signature = first.servable.signatures[first.signature]
    num_rows = sum(task.num_rows for task in batch)
    return {
        name: np.repeat(first.inputs[name], num_rows, axis=0)
        if name in signature.defaults
        else np.concatenate(_to_one_shape([task.inputs[name] for task in batch]))
        for name in signature.inputs
    }


def _to_one_shape(arrays: Sequence[Array]) -> Sequence[Array]:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) == 1:
        return arrays
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    filled = []
    for array in arrays:
        to_add = [(0, most - size) for most, size in zip(largest, array.shape[1:], strict=True)]
        filled.append(np.pad(array, [(0, 0), *to_add], constant_values=b""))
    return filled


def _shares(outputs: Outputs, sizes: Sequence[int]) -> list[Outputs | Exception]:
    """Each task's rows, `sizes` of them; nothing where the model answered with another number."""
    if any(array.shape[:1] != (sum(sizes),) for array in outputs.values()):
        return []
    ends = list(itertools.accumulate(sizes))
    return [
        {name: array[end - size : end] for name, array in outputs.items()}
        for end, size in zip(ends, sizes, strict=True)
    ]
