"""Merges requests that wait for the same signature into one run of its graph.

A graph answers many queries at once for little more than it takes for a few. Nobody waits for a
batch to fill, though: while runs are under way, the requests that arrive meanwhile form the next
ones. A server at rest answers as if there were no batching.

Merged are requests that a row-wise model answers as it would answer each alone: for the same
signature of the same version, with the same optional inputs (`k`, exclusions, rules), one row of
each. What any of them may be told besides an answer, it is told alone. ScaNN's own search is
row-wise but for a candidate at the border of its approximation, for a few queries in a thousand.
"""

import os
import threading
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.errors import DeadlineError, ServingError
from serving.loading import Servable
from serving.tensors import Array, Signature

# An input that makes the columns of the answer, in the project's signatures: filled up, it would
# change the answer's shape.
_COLUMNS = "candidate_ids"


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


@dataclass(eq=False)
class _Task:
    """A request that waits for its answer."""

    servable: Servable
    signature: str
    inputs: Mapping[str, Array]
    kind: Hashable  # Tasks of one kind may be merged; None: with no other.
    # Held until the task is answered, or has its turn.
    signal: threading.Lock = field(default_factory=threading.Lock)
    has_turn: bool = False  # Its thread runs the next batch.
    is_taken: bool = False  # Into a batch, its own or another's.
    answer: dict[str, Array] | Exception | None = None

    @property
    def num_rows(self) -> int:
        """Of a task that may be merged."""
        spec = self.servable.signatures[self.signature]
        return len(self.inputs[_first_required(spec)])


class Batcher:
    """Runs signatures for many threads, a bounded number of runs at a time. Thread-safe."""

    def __init__(self, options: BatchingOptions) -> None:
        """Starts nothing: batches run in the threads of their requests."""
        self._options = options
        self._lock = threading.Lock()  # Guards what follows.
        self._waiting: deque[_Task] = deque()
        self._num_running = 0

    def run(
        self,
        servable: Servable,
        signature: str,
        inputs: Mapping[str, Array],
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Runs a signature, perhaps together with those of other threads.

        Args:
            servable: See `Servable.run`.
            signature: See `Servable.run`.
            inputs: See `Servable.run`.
            timeout_s: How long to wait for a run to begin; None: for ever.

        Returns:
            The outputs of these inputs alone.

        Raises:
            ServingError: See `Servable.run`.
            DeadlineError: If no run began in time.
        """
        spec = servable.signatures[signature]
        kind = _kind(spec, inputs, self._options.pad_variable_length_inputs)
        task = _Task(servable, signature, inputs, kind and (id(servable), signature, kind))
        with self._lock:
            if self._num_running < self._options.num_batch_threads:
                self._num_running += 1
                task.has_turn = True
            else:
                task.signal.acquire()
                self._waiting.append(task)
        if not task.has_turn:
            self._wait(task, timeout_s)
        if task.has_turn:
            self._take_turn(task)
        if isinstance(task.answer, dict):
            return task.answer
        raise task.answer or RuntimeError("a batch ended without an answer")

    def _take_turn(self, task: _Task) -> None:
        with self._lock:
            batch = [task, *self._companions(task)]
        try:
            _run(batch)
        finally:
            self._hand_over()
            for other in batch[1:]:
                other.signal.release()

    def _wait(self, task: _Task, timeout_s: float | None) -> None:
        if task.signal.acquire(timeout=-1 if timeout_s is None else max(timeout_s, 0.0)):
            return
        with self._lock:
            if not task.is_taken:
                self._waiting.remove(task)
                raise DeadlineError("the deadline passed while the request waited for its turn")
        task.signal.acquire()

    def _hand_over(self) -> None:
        """Gives the turn of a finished run to whoever waits longest."""
        with self._lock:
            if not self._waiting:
                self._num_running -= 1
                return
            first = self._waiting.popleft()
            first.has_turn = first.is_taken = True
        first.signal.release()

    def _companions(self, first: _Task) -> list[_Task]:
        """Takes the waiting tasks that can be merged with one whose turn it is."""
        if first.kind is None:
            return []
        room = self._options.max_batch_size - first.num_rows
        taken: list[_Task] = []
        others: deque[_Task] = deque()
        for task in self._waiting:
            if task.kind == first.kind and task.num_rows <= room:
                task.is_taken = True
                taken.append(task)
                room -= task.num_rows
            else:
                others.append(task)
        self._waiting = others
        return taken


def _kind(signature: Signature, inputs: Mapping[str, Array], pads: bool) -> Hashable:
    """What the inputs of merged requests must have in common; None: they cannot be merged."""
    if not signature.is_batched:
        return None
    num_rows = len(inputs[_first_required(signature)])
    common: list[Hashable] = []
    for name, array in inputs.items():
        if name not in signature.defaults:
            if len(array) != num_rows or not num_rows:
                return None
            may_grow = pads and array.dtype == object and name != _COLUMNS
            common.append(array.ndim if may_grow else array.shape[1:])
        elif len(array) != 1:
            return None
        elif array is not signature.defaults[name]:
            values = tuple(array.flat) if array.dtype == object else array.tobytes()
            common.append((name, array.shape, values))
    return tuple(common)


def _first_required(signature: Signature) -> str:
    return next(name for name in signature.inputs if name not in signature.defaults)


def _run(batch: Sequence[_Task]) -> None:
    """Gives every task of a batch its answer."""
    first = batch[0]
    try:
        if len(batch) > 1:
            try:
                if _share_out(first.servable.run(first.signature, _merged(batch)), batch):
                    return
            except ServingError:  # Of one of them, perhaps: the others must not suffer.
                pass
        for task in batch:
            try:
                task.answer = task.servable.run(task.signature, task.inputs)
            except ServingError as error:
                task.answer = error
    except Exception as error:
        for task in batch:
            task.answer = error if task.answer is None else task.answer


def _merged(batch: Sequence[_Task]) -> dict[str, Array]:
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


def _share_out(outputs: Mapping[str, Array], batch: Sequence[_Task]) -> bool:
    """Gives every task its rows, where the model answered with as many as it was given."""
    num_rows = sum(task.num_rows for task in batch)
    if any(array.shape[:1] != (num_rows,) for array in outputs.values()):
        return False
    begin = 0
    for task in batch:
        end = begin + task.num_rows
        task.answer = {name: array[begin:end] for name, array in outputs.items()}
        begin = end
    return True
