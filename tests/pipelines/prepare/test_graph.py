"""What a remote runner receives: a small graph of steps that any worker can unpack."""

import base64
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam import Pipeline
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.runner import PipelineRunner
from apache_beam.transforms.environments import (
    DockerEnvironment,
    python_sdk_dependencies,
    resource_hints_from_options,
)

from pipelines.io.output import Run
from pipelines.options import beam_options
from pipelines.prepare.dataset_files import open_dataset
from pipelines.prepare.job import Job, write_config
from pipelines.prepare.pipeline import build
from tfrs_twotower.schema import parse_config

ROOT = Path(__file__).parents[3]
# Dataflow refuses a job whose graph is larger.
DATAFLOW_LIMIT_BYTES = 10 << 20


IMAGE = "europe-docker.pkg.dev/a-project/images/twotower-pipelines"
DATAFLOW = [
    "--runner=DataflowRunner",
    "--project=a-project",
    "--region=europe-west1",
    "--temp_location=gs://a-bucket/tmp",
    f"--sdk_container_image={IMAGE}",
    "--sdk_location=container",
]


class DataflowRunner(PipelineRunner):
    """Stands for Beam's class of this name, which cannot be imported without its cloud extra."""


def graph_of(world, num_features, environment=None, more=""):
    """The portable graph of the job on a world with some context features."""
    names = [f"feature_{n}" for n in range(num_features)]
    world.write("interactions.csv", ",".join(["user_id", "item_id", "t", *names]) + "\n")
    features = ", ".join(f"{name}: {{kind: categorical}}" for name in names)
    aggregate = "{kind: number, aggregate: {what: count}}"
    config = parse_config(
        "columns: {timestamp: t}\n"
        f"features: {{query: {{user_id: {{kind: id}}}}, context: {{{features}, seen: {aggregate}}},"
        f" candidate: {{item_id: {{kind: id}}, plays: {aggregate}}}}}\n{more}",
        "c",
    )
    run = Run(str(world.output), "run-1")
    job = Job(run, write_config(run, config), False, 8, 1)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    build(pipeline, job, open_dataset(str(world.dataset), config))
    return pipeline.to_runner_api(default_environment=environment)


@pytest.fixture(autouse=True)
def without_asking_the_bucket(monkeypatch):
    """Where Google's client is installed, Beam asks buckets for a policy, and waits for minutes."""
    monkeypatch.setattr(GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *_: None)


def test_the_graph_is_small_and_does_not_grow_with_the_features(world):
    few = graph_of(world, 2).ByteSize()
    many = graph_of(world, 200).ByteSize()

    assert many < DATAFLOW_LIMIT_BYTES / 20
    # A header of the CSV file names its columns; nothing else may know of features.
    assert many - few < 200 * 40


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("", marks=pytest.mark.slow),
        "filters: {min_per_query: 5, k_core: true}",
    ],
)
def test_dataflow_receives_one_image_without_packages_to_stage_and_a_graph_within_its_limit(
    world, more
):
    options = beam_options(DATAFLOW)
    # As Beam's Dataflow runner makes it.
    environment = DockerEnvironment.from_container_image(
        container_image=options.view_as(WorkerOptions).sdk_container_image,
        artifacts=python_sdk_dependencies(options),
        resource_hints=resource_hints_from_options(options),
    )

    graph = graph_of(world, 100, environment, more)

    [used] = {
        transform.environment_id
        for transform in graph.components.transforms.values()
        if transform.environment_id
    }
    sent = graph.components.environments[used]
    assert beam_runner_api_pb2.DockerPayload.FromString(sent.payload).container_image == IMAGE
    staged = [
        beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(part.role_payload).staged_name
        for part in sent.dependencies
    ]
    # A list for people to read: neither a package nor a pickled main session.
    assert set(staged) <= {"submission_environment_dependencies.txt"}
    assert graph.ByteSize() < DATAFLOW_LIMIT_BYTES / 20
    assert Pipeline.from_runner_api(graph, DataflowRunner(), options).to_runner_api()


def test_beam_accepts_the_options_that_the_documentation_gives():
    validator = PipelineOptionsValidator(beam_options(DATAFLOW), DataflowRunner())
    incomplete = [option for option in DATAFLOW if not option.startswith("--project")]

    assert validator.validate() == []
    [message] = PipelineOptionsValidator(beam_options(incomplete), DataflowRunner()).validate()
    assert "project" in message


@pytest.mark.slow
def test_every_step_unpickles_in_a_fresh_interpreter(world):
    filters = "filters: {duplicates: first, min_per_query: 2}"
    transforms = graph_of(world, 3, more=filters).components.transforms.values()
    payloads = []
    for transform in transforms:
        if transform.spec.urn == "beam:transform:pardo:v1":
            pardo = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            # Steps of Beam's own need no payload.
            if pardo.do_fn.payload:
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
