"""Prepares training data: interaction log in, prepared folder out.

    python -m pipelines.prepare --config C --dataset DIR --output DIR [any Beam option]

One Beam pipeline. Files are read into Arrow batches and cut into partitions by hash of the query
(`ingest`); partitions are sorted and left in a staging folder, and the cut-offs of the split, the
rows of queries and candidates follow from what they report (`staging`); where the config has
aggregates, those of every event are found (`aggregate_transforms`); the train part is counted into
vocabularies and statistics, and examples are encoded with them (`outputs`). Stages meet in files
below the output folder, which every worker must reach.
"""

import json
import sys
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsList, AsSingleton
from rich.console import Console

from pipelines.io import filesystem
from pipelines.options import (
    DEFAULT_MAX_REJECTED_SHARE,
    OutputOptions,
    PrepareOptions,
    beam_options,
    read_options,
)
from pipelines.prepare.aggregate_transforms import FindAggregates
from pipelines.prepare.closing_table import closing_table
from pipelines.prepare.dataset_files import CANDIDATES, INTERACTIONS, QUERIES, Dataset, open_dataset
from pipelines.prepare.ingest import Pieces, ReadFiles, WriteRejected
from pipelines.prepare.job import Job
from pipelines.prepare.manifest import check_report, make_manifest, write_statistics
from pipelines.prepare.outputs import (
    CountCandidates,
    CountPartition,
    MergeCounts,
    WriteCandidates,
    WritePartition,
    WriteReport,
)
from pipelines.prepare.progress import shown
from pipelines.prepare.staging import (
    EVENTS,
    PROFILES,
    StageCandidates,
    StageCatalogue,
    StagePartitions,
)
from tfrs_twotower.schema import Config, UserError, load_config

PARTITION_BYTES = 32 << 20  # Of interactions, as text.
MIN_PARTITIONS = 8


def build(pipeline: beam.Pipeline, job: Job, dataset: Dataset) -> None:
    """Adds the whole job to a pipeline.

    Args:
        pipeline: To add to.
        job: Settings and places.
        dataset: The files to read.
    """

    def read(kind: str, catalogue: AsSingleton | None) -> Pieces:
        files = ReadFiles(job, kind, dataset.of(kind), catalogue)
        return pipeline | f"Read{kind.capitalize()}" >> files

    candidates, profiles = read(CANDIDATES, None), read(QUERIES, None)
    staged_candidates = candidates.tables | "StageCandidates" >> StageCandidates(job)
    if job.has_candidates:
        catalogue = AsSingleton(staged_candidates.ids | "Catalogue" >> StageCatalogue(job))
        events = read(INTERACTIONS, catalogue)
        stage = StagePartitions(job, None)
        candidate_parts = staged_candidates.numbers
    else:
        events = read(INTERACTIONS, None)
        catalogue = AsSingleton(events.candidate_ids | "Catalogue" >> StageCatalogue(job))
        stage = StagePartitions(job, catalogue)
        candidate_parts = pipeline | "OnePart" >> beam.Create([0])
    staged = {EVENTS: events.tables, PROFILES: profiles.tables} | "StagePartitions" >> stage
    numbers, found = staged.numbers, []
    if job.config.query_aggregates or job.config.candidate_aggregates:
        aggregates = FindAggregates(job, staged.cutoffs)
        numbers, audited = numbers | "FindAggregates" >> aggregates
        found = [audited]
    counts = [
        numbers
        | "CountPartition"
        >> beam.ParDo(CountPartition(job), AsSingleton(staged.cutoffs), catalogue)
    ]
    if job.has_candidates:
        counts.append(candidate_parts | "CountCandidates" >> beam.ParDo(CountCandidates(job)))
    counted = counts | "Counts" >> beam.Flatten() | "MergeCounts" >> MergeCounts(job, catalogue)
    written = numbers | "WritePartition" >> beam.ParDo(
        WritePartition(job),
        AsSingleton(staged.cutoffs),
        AsSingleton(staged.num_queries),
        AsList(counted),
    )
    described = candidate_parts | "WriteCandidates" >> beam.ParDo(
        WriteCandidates(job), AsList(counted)
    )
    facts = [
        staged.cutoffs | "ReportCutoffs" >> beam.Map(_as_fact, "cutoffs"),
        staged.num_queries | "ReportQueries" >> beam.Map(_as_fact, "num_queries"),
    ]
    reports = [part.report for part in (candidates, profiles, events, staged_candidates, staged)]
    rejected = [part.rejected for part in (candidates, profiles, events, staged_candidates, staged)]
    _ = rejected | "Rejected" >> beam.Flatten() | "WriteRejected" >> WriteRejected(job)
    _ = (
        [*reports, *facts, *found, counted, written, described]
        | "Reports" >> beam.Flatten()
        | "WriteReport" >> WriteReport(job)
    )


def _as_fact(value: Any, name: str) -> str:
    return json.dumps({name: value})


def prepare(
    config: Config,
    dataset: str,
    output: str,
    *,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
    max_rejected_share: float = DEFAULT_MAX_REJECTED_SHARE,
    progress: bool = False,
) -> dict[str, Any]:
    """Prepares training data from a dataset folder.

    Args:
        config: Columns, labels, features, split.
        dataset: Folder with the files, on any filesystem Beam reads.
        output: The prepared folder to write, on a filesystem that every worker reaches.
        beam_args: Beam options, such as `--runner=...`.
        overwrite: Whether a finished prepared folder may be replaced.
        max_rejected_share: Share of records (0 to 1) that may be rejected.
        progress: Whether to show on stderr how far the job is.

    Returns:
        The manifest, as written.

    Raises:
        UsageError: If the output folder is finished or not ours.
        UserError: If the data cannot be used, or the disk is full.
    """
    files = open_dataset(dataset, config)
    with filesystem.output_folder(output, overwrite=overwrite) as staging:
        job = Job(
            output=output,
            staging=staging,
            run=uuid.uuid4().hex,
            has_candidates=bool(files.of(CANDIDATES)),
            num_partitions=max(MIN_PARTITIONS, -(-files.interaction_bytes // PARTITION_BYTES)),
            num_candidate_partitions=-(-files.candidate_bytes // PARTITION_BYTES) or 1,
        )
        job.write_config(config)
        watch = shown(staging, output, len(files.chunks), job.num_partitions)
        with (
            watch if progress else nullcontext(),
            beam.Pipeline(options=beam_options(beam_args)) as pipeline,
        ):
            build(pipeline, job, files)
        report = json.loads(filesystem.read_bytes(job.report_path))
        check_report(report, job, max_rejected_share)
        manifest = make_manifest(report, job, write_statistics(report, job))
        filesystem.write_manifest(output, manifest, staging)
    return manifest


def main(argv: Sequence[str] | None = None, program: str = "python -m pipelines.prepare") -> int:
    """Runs the job as the command line says; returns the exit code.

    Args:
        argv: The command line; None: that of the process.
        program: How it was called, for messages.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        required = ("config", "dataset", "output")
        options = read_options(arguments, program, __doc__, PrepareOptions, required)
        own, written = options.view_as(PrepareOptions), options.view_as(OutputOptions)
        manifest = prepare(
            load_config(own.config),
            own.dataset,
            written.output,
            beam_args=arguments,
            overwrite=written.overwrite,
            max_rejected_share=own.max_rejected_share,
            progress=True,
        )
    except UserError as error:
        print(error.as_command_line(), file=sys.stderr)
        return error.exit_code
    Console(markup=False).print(closing_table(manifest))
    return 0
