"""What is wrong with most records of a dataset, told from the heads of its files.

The commonest mistakes, such as milliseconds for seconds, spoil every row: a job need not read a
whole log to find that out.
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines.prepare.cache import head_of
from pipelines.prepare.dataset_files import (
    CANDIDATES,
    INTERACTIONS,
    QUERIES,
    Chunk,
    Dataset,
    needed_columns,
)
from pipelines.prepare.parsing import Reject
from pipelines.prepare.validate import (
    CURES,
    REASONS,
    numeric_columns,
    validate_entities,
    validate_events,
)
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.errors import first_line

SAMPLED_FILES = 8  # Of a kind, spread over all.
MAX_REJECTED_SHARE = 0.5  # Of a sample; a head need not be like the rest.
SHOWN_CHARACTERS = 200


def check_heads(dataset: Dataset, config: Config, max_rejected_share: float) -> None:
    """Checks that not most of the first records would be rejected.

    Args:
        dataset: The files.
        config: Names the columns.
        max_rejected_share: Share (0 to 1) that may be rejected in any case.

    Raises:
        UserError: If more than half of them would be, or a file cannot be read.
    """
    for kind in (CANDIDATES, QUERIES, INTERACTIONS):
        read, reasons = 0, Counter[str]()
        first: dict[str, tuple[str, str]] = {}
        for file in _sampled(dataset.of(kind)):
            for num_read, rejects in _rejected_of(file, config):
                read += num_read
                for reject in rejects:
                    reasons[reject.reason] += 1
                    first.setdefault(reject.reason, (file.name, reject.record))
        if reasons.total() <= max(MAX_REJECTED_SHARE, max_rejected_share) * read:
            continue
        reason = max(sorted(reasons), key=lambda name: reasons[name])
        cure = f": {CURES[reason]}" if reason in CURES else ""
        name, record = first[reason]
        raise UserError(
            f"{reasons.total()} of the first {read} records of the {kind} cannot be used, most as "
            f"`{reason}`{cure}\nThe first of them in {name}: {record[:SHOWN_CHARACTERS]}"
        )


def _sampled(chunks: list[Chunk]) -> list[Chunk]:
    """Some files of a kind, each as one chunk."""
    first = [chunk for chunk in chunks if chunk.number == 0]
    places = np.linspace(0, len(first) - 1, min(len(first), SAMPLED_FILES)).astype(int)
    return [first[place] for place in places.tolist()]


def _rejected_of(file: Chunk, config: Config) -> list[tuple[int, list[Reject]]]:
    try:
        return list(_rejected(file, config))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {file.path}: {first_line(error)}") from error


def _rejected(file: Chunk, config: Config) -> Iterator[tuple[int, list[Reject]]]:
    """How many records there are in each batch of a head, and those that cannot be used."""
    columns = list(needed_columns(config, file.kind))
    for batch in head_of(file, columns, numeric_columns(config)):
        if file.kind == INTERACTIONS:
            valid = validate_events(batch.table, config, None)
        else:
            side = "candidate" if file.kind == CANDIDATES else "query"
            valid = validate_entities(batch.table, config, side)
        bad = np.flatnonzero(valid.reasons >= 0).tolist()
        yield (
            batch.num_read,
            batch.rejects + [batch.rejected(row, REASONS[valid.reasons[row]]) for row in bad],
        )
