"""Keeps answers for learning: `PredictionLog` records in files, written by a thread of its own.

An answer never waits for its record: where a thread falls behind, or the disk is full, records are
lost and counted.
"""

import hashlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.model_config import RequestLogging

_LOG = logging.getLogger(__name__)

SUFFIX = ".tfrecord.gz"
"""Ends the name of a file that is whole; while it is written, its name ends otherwise."""

UNFINISHED = ".tmp"

_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP")


class Counts(NamedTuple):
    """Records so far: in files that are whole, and lost."""

    written: int
    lost: int


class _Record(NamedTuple):
    """A request and its answer, not yet serialized."""

    logging: RequestLogging
    request: Any
    response: Any
    time_s: int
    num_bytes: int

    @classmethod
    def of(
        cls, logging: RequestLogging, request: Any, response: Any, answered_s: float
    ) -> "_Record":
        num_bytes = request.ByteSize() + response.ByteSize()
        return cls(logging, request, response, int(answered_s), num_bytes)

    def serialized(self) -> bytes:
        log = prediction_log_pb2.PredictionLog()
        log.log_metadata.model_spec.CopyFrom(self.response.model_spec)
        log.log_metadata.sampling_config.sampling_rate = self.logging.sampling_rate
        log.log_metadata.timestamp_secs = self.time_s
        log.predict_log.request.CopyFrom(self.request)
        log.predict_log.response.CopyFrom(self.response)
        return log.SerializeToString()


@dataclass
class _File:
    """A file that is being written beside the place that it gets when it is whole."""

    path: Path
    opened_s: float = field(default_factory=time.monotonic)
    num_records: int = 0
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._beside = self.path.with_name(self.path.name + UNFINISHED)
        self._writer = tf.io.TFRecordWriter(str(self._beside), _OPTIONS)

    def write(self, record: bytes) -> None:
        self._writer.write(record)
        self.num_records += 1
        self.num_bytes += len(record)

    def finish(self) -> None:
        self._writer.close()
        self._beside.rename(self.path)


class RequestLog:
    """Writes a sample of the answers. Thread-safe."""

    def __init__(
        self,
        *,
        max_waiting_bytes: int = 64 * 1024 * 1024,
        max_unsampled_bytes: int = 8 * 1024 * 1024,
        max_file_bytes: int = 64 * 1024 * 1024,
        max_file_s: float = 60.0,
    ) -> None:
        """Does nothing yet: threads start with the first record, `close` ends them.

        Args:
            max_waiting_bytes: What may wait to be written; more is lost.
            max_unsampled_bytes: Once as much waits to be sampled, more is lost, and counted unseen:
                whether it belongs to the sample is not known.
            max_file_bytes: Of records, before compression: a file that has more is finished.
            max_file_s: A file that is as old is finished. What is in an unfinished one is lost when
                the process is killed.
        """
        self._max_waiting_bytes = max_waiting_bytes
        self._max_unsampled_bytes = max_unsampled_bytes
        self._max_file_bytes, self._max_file_s = max_file_bytes, max_file_s
        self._files: dict[Path, _File] = {}  # Of the writer, by prefix.
        self._unsampled: SimpleQueue[_Record | None] = SimpleQueue()  # None: no more come.
        self._changed = threading.Condition()  # Guards what follows.
        self._unsampled_bytes = 0
        self._waiting: deque[_Record] = deque()
        self._waiting_bytes = 0
        self._written = self._lost = 0
        self._told: set[type[Exception]] = set()
        self._is_closing = self._is_closed = False
        self._sampler: threading.Thread | None = None
        self._writer: threading.Thread | None = None

    def add(self, settings: RequestLogging, request: Any, response: Any) -> None:
        """Keeps an answer, if it belongs to the sample and there is room; never waits.

        The hash of the request is left to a thread. That is not the writer, which a slow disk may
        hold up: what does not belong to the sample would fill the room for what does.

        Args:
            settings: Where to, and how many.
            request: A `PredictRequest`, not to be changed any more.
            response: Its `PredictResponse`, likewise.
        """
        record = _Record.of(settings, request, response, time.time())
        if settings.sampling_rate >= 1.0:
            self._keep(record)
            return
        with self._changed:
            if self._is_closing or self._unsampled_bytes >= self._max_unsampled_bytes:
                self._lost += 1
                return
            self._unsampled_bytes += record.num_bytes
            self._unsampled.put(record)
            if self._sampler is None:
                self._sampler = _started(self._sample, "request sampler")

    def add_made(
        self,
        settings: RequestLogging,
        make_request: Callable[[], Any],
        make_response: Callable[[], Any],
        answered_s: float,
    ) -> None:
        """Like `add`, for an answer that has been sent, and not as protos.

        Works in the thread of the caller. Whatever fails costs the record and is not raised.

        Args:
            settings: Where to, and how many.
            make_request: Makes the `PredictRequest`, which is sampled by its bytes.
            make_response: Makes the `PredictResponse`; not called outside of the sample.
            answered_s: When there was the answer, of `time.time`; a slow caller gets it later.
        """
        try:
            request = make_request()
            if is_sampled(request, settings.sampling_rate):
                self._keep(_Record.of(settings, request, make_response(), answered_s))
        except Exception as error:
            self._lose_one(error)

    def counts(self) -> Counts:
        """What has become of the records that the files on their way do not hold."""
        with self._changed:
            return Counts(self._written, self._lost)

    def close(self) -> None:
        """Samples and writes what waits and finishes the files."""
        with self._changed:
            self._is_closing = True
        if self._sampler:
            self._unsampled.put(None)
            self._sampler.join()
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._writer:
            self._writer.join()

    def _keep(self, record: _Record) -> None:
        """Hands a record of the sample to the writer, if there is room."""
        with self._changed:
            if self._is_closed or self._waiting_bytes + record.num_bytes > self._max_waiting_bytes:
                self._lost += 1
                return
            self._waiting.append(record)
            self._waiting_bytes += record.num_bytes
            if self._writer is None:
                self._writer = _started(self._run, "request log")
            self._changed.notify()

    def _sample(self) -> None:
        for record in iter(self._unsampled.get, None):
            try:
                if is_sampled(record.request, record.logging.sampling_rate):
                    self._keep(record)
            except Exception as error:
                self._lose_one(error)
            with self._changed:
                self._unsampled_bytes -= record.num_bytes

    def _run(self) -> None:
        is_closed = False
        while not is_closed:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed, self._pause_s())
                records, self._waiting = self._waiting, deque()
                is_closed = self._is_closed
            self._write(records)
            self._finish([*self._files] if is_closed else self._due())

    def _pause_s(self) -> float | None:
        """How long the oldest file may still be written to; None without a file."""
        if not self._files:
            return None
        oldest_s = min(file.opened_s for file in self._files.values())
        return max(0.0, oldest_s + self._max_file_s - time.monotonic())

    def _due(self) -> list[Path]:
        oldest_s = time.monotonic() - self._max_file_s
        return [
            prefix
            for prefix, file in self._files.items()
            if file.num_bytes >= self._max_file_bytes or file.opened_s <= oldest_s
        ]

    def _write(self, records: Iterable[_Record]) -> None:
        for record in records:
            prefix = record.logging.filename_prefix
            try:
                if prefix not in self._files:
                    self._files[prefix] = _File(_new_path(prefix))
                self._files[prefix].write(record.serialized())
            except (OSError, tf.errors.OpError) as error:
                self._lose(prefix, error, 1)
            except Exception as error:  # Without the thread, all that follow would be lost.
                self._lose_one(error)
            with self._changed:
                self._waiting_bytes -= record.num_bytes

    def _finish(self, prefixes: Iterable[Path]) -> None:
        for prefix in prefixes:
            try:
                self._files[prefix].finish()
            except Exception as error:
                self._lose(prefix, error, 0)
            else:
                with self._changed:
                    self._written += self._files.pop(prefix).num_records

    def _lose(self, prefix: Path, error: Exception, num_beside: int) -> None:
        """Gives up the file of a prefix; the next record gets another."""
        file = self._files.pop(prefix, None)
        num_lost = (file.num_records if file else 0) + num_beside
        _LOG.error("%d records of the request log %s are lost: %s", num_lost, prefix, error)
        with self._changed:
            self._lost += num_lost

    def _lose_one(self, error: Exception) -> None:
        """Gives up a record for a fault of this program, told once: the next may fail alike."""
        with self._changed:
            self._lost += 1
            is_news = type(error) not in self._told
            self._told.add(type(error))
        if is_news:
            _LOG.error("a record of the request log is lost", exc_info=error)


def _started(run: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def is_sampled(request: Any, sampling_rate: float) -> bool:
    """Whether a request belongs to the sample, by a hash of its bytes.

    The same request is in it on every server and at any time, or never; a request of a smaller
    sample is in a larger one.
    """
    if sampling_rate >= 1.0:
        return True
    data = request.SerializeToString(deterministic=True)
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "big") < sampling_rate * 2**64


def _new_path(prefix: Path) -> Path:
    """A name that no other server takes; names of one prefix follow in time."""
    started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return prefix.with_name(f"{prefix.name}-{started}-{uuid.uuid4().hex}{SUFFIX}")
