"""Beam jobs: training data from interaction logs, and batch scoring."""

import logging

from tfrs_twotower.schema.extras import need
from tfrs_twotower.schema.folders import FULL_DISK

need("pipelines", "apache_beam")

# Beam's start-up writes lines that no user of a job can act on: of a client library that no job
# here uses, and of memory that it cannot measure.
NOISE = ("apitools not found", "Resource module is not available")
logging.getLogger().addFilter(lambda record: not any(text in str(record.msg) for text in NOISE))
# What a user can cure, and an interrupt, is told in a line by the launcher; Beam would put a
# traceback before it.
UNREADABLE = "cannot read the dataset file"
TOLD = (FULL_DISK, UNREADABLE, KeyboardInterrupt.__name__)
logging.getLogger("apache_beam.runners.common").addFilter(
    lambda record: not any(text in record.getMessage() for text in TOLD)
)
# At the end of a job a runner hangs up on the workers of the launcher's process.
HUNG_UP = "Multiplexer hanging up"
logging.getLogger("apache_beam.runners.worker.data_plane").addFilter(
    lambda record: not (record.exc_info and HUNG_UP in str(record.exc_info[1]))
)
