"""What a remote runner receives: a small graph of steps that any worker can unpack."""

import base64
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.job import Job
from pipelines.prepare import build
from pipelines.sources import open_dataset
from tfrs_twotower.schema import parse_config

ROOT = Path(__file__).parents[2]
# Dataflow refuses a job whose graph is larger.
DATAFLOW_LIMIT_BYTES = 10 << 20


def graph_of(world, num_features):
    """The portable graph of the job on a world with some context features."""
    names = [f"feature_{n}" for n in range(num_features)]
    world.write("interactions.csv", ",".join(["user_id", "item_id", "t", *names]) + "\n")
    features = ", ".join(f"{name}: {{kind: categorical}}" for name in names)
    config = parse_config(
        "columns: {timestamp: t}\n"
        f"features: {{query: {{user_id: {{kind: id}}}}, context: {{{features}}},"
        " candidate: {item_id: {kind: id}}}",
        "c",
    )
    staging = str(world.output / ".staging")
    job = Job(str(world.output), staging, "one run", False, 8, 1)
    job.write_config(config)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    build(pipeline, job, open_dataset(str(world.dataset), config))
    return pipeline.to_runner_api()


def test_the_graph_is_small_and_does_not_grow_with_the_features(world):
    few = graph_of(world, 2).ByteSize()
    many = graph_of(world, 200).ByteSize()

    assert many < DATAFLOW_LIMIT_BYTES / 20
    # A header of the CSV file names its columns; nothing else may know of features.
    assert many - few < 200 * 40


def test_every_step_unpickles_in_a_fresh_interpreter(world):
    transforms = graph_of(world, 3).components.transforms.values()
    payloads = []
    for transform in transforms:
        if transform.spec.urn == "beam:transform:pardo:v1":
            pardo = beam.portability.api.beam_runner_api_pb2.ParDoPayload.FromString(
                transform.spec.payload
            )
            payloads.append(base64.b64encode(pardo.do_fn.payload).decode())
    assert len(payloads) > 20
    script = (
        "import base64, sys\n"
        "from apache_beam.internal import pickler\n"
        "for line in sys.stdin:\n"
        "    pickler.loads(base64.b64decode(line))\n"
        "print('unpickled')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        input="\n".join(payloads),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )

    assert done.stdout.strip() == "unpickled", done.stderr
