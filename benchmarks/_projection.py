"""What preparing 10 billion events would take and cost on Dataflow, from what one machine measures.

The measured log has as many events a user and an item as the projected one, so what it costs grows
with the events; of what does not, the two largest are measured apart: a chunk is cut into more
and smaller pieces, and every worker fills look-up tables of all tokens.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _harness import Measurement
from apache_beam.testing.load_tests import dataflow_cost_consts as prices

from pipelines.io.tables import column, concat, partition, to_ipc
from pipelines.prepare.catalogue import Catalogue, catalogue_table
from pipelines.prepare.validate import QUERY_ID, validate_events
from tfrs_twotower.schema import Config

EVENTS, USERS, ITEMS = 10_000_000_000, 100_000_000, 50_000_000
WORKERS = 1000  # Of one core and one process each.
ITEM_BYTES = 46  # Catalogue, corpus, rows in histories, ids of ten letters: docs/explain/limits.md.
DISK_GB = 25  # Of a worker, where Dataflow's service shuffles.
NUM_TOKENS = 2_000_000  # Of the measured look-up table.


def on_dataflow(
    *,
    processor_s: float,
    shuffled: float,
    largest_element: float,
    process_bytes: float,
    smaller_pieces: tuple[float, float],
    token: tuple[float, float],
) -> list[Measurement]:
    """The measurements and what follows from them; each formula is the name of its result.

    Args:
        processor_s: Processor time of an event.
        shuffled: Bytes of an event that are grouped.
        largest_element: Bytes of the largest element among them.
        process_bytes: Peak memory of a process that prepares one partition.
        smaller_pieces: Bytes and processor seconds an event more for the projection's pieces.
        token: Bytes and processor seconds of a token in a look-up table.
    """
    (more_bytes, more_s), (token_bytes, token_s) = smaller_pieces, token
    tokens = USERS + ITEMS
    hours = (EVENTS * (processor_s + more_s) + WORKERS * tokens * token_s) / 3600
    memory_gb = (process_bytes + tokens * token_bytes + ITEMS * ITEM_BYTES) / 1e9
    shuffled_gb = EVENTS * (shuffled + more_bytes) / 1e9
    of_workers = hours * (
        prices.VCPU_PER_HR_BATCH
        + memory_gb * prices.MEM_PER_GB_HR_BATCH
        + DISK_GB * prices.PD_PER_GB_HR
    )
    of_shuffle = 2 * shuffled_gb * prices.SHUFFLE_PER_GB_BATCH
    of_hour = (
        f"{prices.VCPU_PER_HR_BATCH:g} + {prices.MEM_PER_GB_HR_BATCH:g} G + "
        f"{prices.PD_PER_GB_HR:g} x {DISK_GB}"
    )
    return [
        Measurement("c: processor time of an event", processor_s * 1e6, "µs"),
        Measurement("d: more of it for smaller pieces", more_s * 1e6, "µs"),
        Measurement("b: shuffled for an event", shuffled, "bytes"),
        Measurement("e: more of it for smaller pieces", more_bytes, "bytes"),
        Measurement("the largest element of these", largest_element / 1e6, "MB"),
        Measurement("p: a process with one partition", process_bytes / 1e9, "GB"),
        Measurement("t: a token in a look-up table", token_bytes, "bytes"),
        Measurement("f: filling it", token_s * 1e6, "µs"),
        Measurement("H = N (c + d) + W T f", hours, "hours of a core"),
        Measurement("H / W", hours * 3600 / WORKERS, "seconds"),
        Measurement(f"G = p + T t + {ITEM_BYTES} I", memory_gb, "GB a worker"),
        Measurement("S = N (b + e)", shuffled_gb / 1e3, "TB shuffled"),
        Measurement(f"H ({of_hour})", of_workers, "dollars"),
        Measurement(f"{prices.SHUFFLE_PER_GB_BATCH:g} x 2 S", of_shuffle, "dollars"),
        Measurement("both", of_workers + of_shuffle, "dollars"),
    ]


def cut_a_chunk(
    config: Config, num_rows: int, num_users: int, num_partitions: int
) -> tuple[float, float]:
    """Bytes and processor seconds a row of a chunk that is cut into pieces and put together."""
    chance = np.random.default_rng(0)
    items = pa.array(sorted(f"i{n}" for n in range(20_000)))
    raw = pa.table(
        {
            "user_id": [f"u{n}" for n in chance.integers(0, num_users, num_rows)],
            "item_id": items.take(pa.array(chance.integers(0, len(items), num_rows))),
            "timestamp": chance.integers(1_600_000_000, 1_607_776_000, num_rows),
            "device": [f"d{n}" for n in chance.integers(0, 4, num_rows)],
            "page": [f"p{n}" for n in chance.integers(0, 300, num_rows)],
            "dwell": np.round(chance.random(num_rows) * 100, 2),
        }
    )
    events = validate_events(raw, config, Catalogue(catalogue_table(items))).table
    start = time.process_time()
    parts = partition(events, column(events, QUERY_ID), num_partitions)
    pieces = [to_ipc(part) for _, part in parts]
    concat(pieces)
    seconds = time.process_time() - start
    return sum(map(len, pieces)) / num_rows, seconds / num_rows


def fill_a_table(folder: Path) -> tuple[float, float]:
    """Bytes and processor seconds of a token in TensorFlow's look-up table."""
    path = folder / "vocabulary.txt"
    path.write_text("".join(f"u{n}\n" for n in range(USERS - NUM_TOKENS, USERS)))
    found = in_a_process(
        "from tfrs_twotower.features.encoding import Vocabulary\n"
        "before, start = peak(), time.process_time()\n"
        "vocabulary = Vocabulary(sys.argv[1], 1)\n"
        "found = {'bytes': peak() - before, 'seconds': time.process_time() - start}\n",
        str(path),
    )
    return found["bytes"] / NUM_TOKENS, found["seconds"] / NUM_TOKENS


def in_a_process(script: str, *arguments: str) -> Any:
    """What a script in a fresh process leaves as `found`; it has `peak`."""
    script = (
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "from _memory import peak\n"
        f"{script}"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", script, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)
