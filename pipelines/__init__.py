"""Beam jobs: training data from interaction logs, and batch scoring."""

import errno
import logging
import os

# TensorFlow's C++ start-up writes lines that no user of a job can act on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# So does Beam, of a client library that no job here uses.
logging.getLogger().addFilter(lambda record: "apitools not found" not in str(record.msg))
# A full disk is told in a line (`filesystem.output_folder`); Beam would put a traceback before it.
FULL_DISK = os.strerror(errno.ENOSPC)
logging.getLogger("apache_beam.runners.common").addFilter(
    lambda record: FULL_DISK not in record.getMessage()
)
