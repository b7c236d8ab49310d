"""What the launcher concludes from the workers' report."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io.output import Run
from pipelines.prepare import manifest
from pipelines.prepare.job import Job
from pipelines.prepare.manifest import check_report, statistics_json
from tfrs_twotower.schema import UserError


def test_nothing_but_rejects_is_an_error_whatever_share_may_be_rejected():
    report = {"kinds": {"interactions": {"read": 2, "rejected": {"missing_id": 2}}}}
    job = Job(Run("prepared", "run-1"), "config.json", False, 1, 1)

    with pytest.raises(UserError, match="every one of the 2 records .*`missing_id`: an id column"):
        check_report(report, job, 1.0)


@pytest.mark.parametrize("num_ids", [0, 1, 3, 4, 7])
def test_statistics_in_pieces_are_the_text_of_the_whole(monkeypatch, num_ids):
    monkeypatch.setattr(manifest, "COUNTS_A_PIECE", 3)
    ids = sorted(['"quoted"', "a", "a\\b", "b", "ü", "\U0001f600", "\uffff"][:num_ids])
    numbers = {"age": {"mean": 3.5, "count": 2}}
    whole = {
        "total": sum(range(num_ids)),
        "candidate_train_counts": dict(zip(ids, range(num_ids), strict=True)),
        "numbers": numbers,
    }

    pieces = list(statistics_json(pa.array(ids, pa.string()), np.arange(num_ids), numbers))

    assert b"".join(pieces).decode() == json.dumps(whole, indent=1, sort_keys=True) + "\n"
    assert len(pieces) == -(-num_ids // 3) + 3
