"""What the launcher concludes from the workers' report."""

import pytest

from pipelines.io.output import Run
from pipelines.prepare.job import Job
from pipelines.prepare.manifest import check_report
from tfrs_twotower.schema import UserError


def test_nothing_but_rejects_is_an_error_whatever_share_may_be_rejected():
    report = {"kinds": {"interactions": {"read": 2, "rejected": {"missing_id": 2}}}}
    job = Job(Run("prepared", "run-1"), "config.json", False, 1, 1)

    with pytest.raises(UserError, match="every one of the 2 records .*`missing_id`: an id column"):
        check_report(report, job, 1.0)
