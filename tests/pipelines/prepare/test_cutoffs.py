"""The cut-offs of the split follow from the times of all partitions together."""

from types import SimpleNamespace

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from pipelines.prepare.cutoffs import FindCutoffs, times_by_span
from pipelines.prepare.split import NEVER
from tfrs_twotower.schema import parse_config


@pytest.mark.parametrize("num_partitions", [0, 3])
def test_events_of_all_partitions_and_spans_count(num_partitions):
    chance = np.random.default_rng(0)
    parts = [chance.integers(0, 200_000, 500) for _ in range(num_partitions)]
    times = sorted(second for part in parts for second in part.tolist())
    expected = (times[1200], times[1350]) if times else (NEVER, NEVER)
    spans = [span for part in parts for span in times_by_span(pa.table({"timestamp_s": part}))]
    job = SimpleNamespace(config=parse_config("columns: {timestamp: t}", "c"))

    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        assert_that(pipeline | beam.Create(spans) | FindCutoffs(job), equal_to([expected]))
