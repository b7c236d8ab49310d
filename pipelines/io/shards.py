"""Records and tables -> the files of an output folder."""

import itertools
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.tables import mix

GZIP_LEVEL = 1  # Twice as fast as the default, for a tenth more bytes.
GZIP_FORMAT = 31
CHECKSUM_BYTES = 4
SHARD_BYTES = 128 << 20  # Of a file of records, packed; a block more at most.


def write_records(stem: str, blocks: Iterable[np.ndarray], staging: str) -> int:
    """Writes framed records as gzip files; a block is packed while the next is made.

    Args:
        stem: Path without suffix. Of a partition's records there is one file, `<stem>`, and where
            it would pass `SHARD_BYTES`, `<stem>-00001` and so on.
        blocks: `[n, record_bytes]` uint8 each.
        staging: See `filesystem.create`.

    Returns:
        A digest of the records: those of parts add up, modulo 2**64, to that of the whole.
    """
    digest = 0
    left = iter(blocks)
    block = next(left, None)
    for number in itertools.count():
        if block is None:
            break
        part = f"-{number:05d}" if number else ""
        packed = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_FORMAT)
        num_bytes = 0
        with (
            filesystem.create(f"{stem}{part}.tfrecord.gz", staging) as file,
            ThreadPoolExecutor(1) as packer,
        ):
            while block is not None and num_bytes < SHARD_BYTES:
                packing = packer.submit(packed.compress, block.reshape(-1).data)
                digest += records_digest(block)
                block = next(left, None)
                data = packing.result()
                file.write(data)
                num_bytes += len(data)
            file.write(packed.flush())
    return digest


def records_digest(block: np.ndarray) -> int:
    """The sum of what the checksums that end framed records, `[n, record_bytes]`, are mixed to."""
    checksums = np.ascontiguousarray(block[:, -CHECKSUM_BYTES:]).view("<u4").reshape(-1)
    return int(mix(checksums.astype(np.uint64)).sum(dtype=np.uint64))


def write_framed(path: str, records: Iterable[bytes], staging: str) -> None:
    """Writes records as one gzip file, framed by TensorFlow in a temporary folder first.

    Sequences hold each event once and without its history: the partition bounds the file.
    """
    options = tf.io.TFRecordOptions("GZIP", compression_level=GZIP_LEVEL)
    with tempfile.TemporaryDirectory() as folder:
        local = join(folder, "records")
        with tf.io.TFRecordWriter(local, options) as writer:
            for record in records:
                writer.write(record)
        with filesystem.create(path, staging) as file, open(local, "rb") as framed:
            shutil.copyfileobj(framed, file)


def write_parquet(path: str, table: pa.Table, staging: str) -> None:
    """Writes a Parquet file."""
    with filesystem.create(path, staging) as file:
        pq.write_table(table, file)
