"""What reading leaves behind: pieces, rejects and counters."""

import json

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that

from pipelines.io.output import Run
from pipelines.io.tables import from_ipc
from pipelines.prepare.dataset_files import INTERACTIONS, open_dataset
from pipelines.prepare.ingest import ReadFiles, rejected_element
from pipelines.prepare.job import Job, write_config
from pipelines.prepare.parsing import Reject
from tfrs_twotower.schema import parse_config


def read_interactions(world, text):
    """The job's reading alone: a finished pipeline and what it gave."""
    world.write("interactions.csv", "user_id,item_id,t\n" + text)
    config = parse_config("columns: {timestamp: t}", "c")
    run = Run(str(world.output), "run-1")
    job = Job(run, write_config(run, config), False, 3, 1)
    dataset = open_dataset(str(world.dataset), config)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    pieces = pipeline | ReadFiles(job, INTERACTIONS, dataset.of(INTERACTIONS), None)
    return pipeline, pieces


def test_every_record_is_counted_as_read_and_perhaps_as_rejected(world):
    pipeline, _ = read_interactions(world, "u,i,1\nu,i,2\nbad\n,i,3\n")

    result = pipeline.run()
    result.wait_until_finish()

    found = result.metrics().query(MetricsFilter().with_namespace("read"))["counters"]
    assert {metric.key.metric.name: metric.committed for metric in found} == {
        "records": 4,
        "rejected.malformed_line": 1,
        "rejected.missing_id": 1,
    }


def test_all_events_of_a_query_are_in_one_partition(world):
    rows = "".join(f"u{n % 7},i{n},{n}\n" for n in range(70))
    pipeline, pieces = read_interactions(world, rows)

    def check(elements):
        place, seen = {}, 0
        for number, data in elements:
            for query in from_ipc(data).column("query_id").to_pylist():
                assert place.setdefault(query, number) == number
                seen += 1
        assert seen == 70
        assert len(set(place.values())) > 1

    assert_that(pieces.tables, check)
    pipeline.run().wait_until_finish()


def test_a_rejected_element_carries_the_size_of_its_chunk():
    element = rejected_element(2, 10, [Reject(4, "malformed_line", "x")])

    assert json.loads(element) == [2, 10, [[4, "malformed_line", "x"]]]
