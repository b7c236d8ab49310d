"""Prepares training data: interaction log in, prepared folder out.

    python -m pipelines.prepare --config C --dataset DIR --output DIR [any Beam option]
    python -m pipelines.prepare --clean --output DIR

One Beam pipeline. Files are read into Arrow batches and cut into partitions by hash of the query
(`ingest`); partitions are sorted and left in files, and the cut-offs of the split, the rows of
queries and candidates follow from them (`staging`); where the config has aggregates, those of every
event are found (`aggregate_transforms`); the train part is counted into vocabularies and statistics
(`count_transforms`), and examples are encoded with them (`write_transforms`). Elements are data, or
paths of files in the run's folder (`pipelines.io.output`), which every worker must reach. The
launcher writes the manifest, which names the files that belong, at the end.

`--clean` removes what failed or killed runs left in a folder where no job is at work.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsDict, AsSingleton
from rich.console import Console

from pipelines import UNREADABLE
from pipelines.allocation import share_a_heap
from pipelines.io import filesystem
from pipelines.io.output import clean, leftovers, output_run
from pipelines.io.report import WriteReport, read_report
from pipelines.options import (
    DEFAULT_MAX_REJECTED_SHARE,
    OutputOptions,
    PrepareOptions,
    beam_options,
    check_flink_tasks,
    ends_with_a_line,
    read_options,
)
from pipelines.prepare.aggregate_transforms import FindAggregates
from pipelines.prepare.cache import Cache
from pipelines.prepare.closing_table import closing_table
from pipelines.prepare.count_transforms import CountCandidates, CountPartition, MergeCounts
from pipelines.prepare.dataset_files import (
    CANDIDATES,
    INTERACTIONS,
    QUERIES,
    Dataset,
    cut_file,
    open_dataset,
)
from pipelines.prepare.head_check import check_heads
from pipelines.prepare.ingest import Pieces, ReadFiles, WriteRejected
from pipelines.prepare.job import Job, write_config
from pipelines.prepare.manifest import check_report, publish_report
from pipelines.prepare.progress import Watch, watching
from pipelines.prepare.staging import (
    EVENTS,
    PROFILES,
    StageCandidates,
    StageCatalogue,
    StagePartitions,
)
from pipelines.prepare.write_transforms import (
    QUERY_ROWS,
    STAGED,
    WriteCandidates,
    WritePartition,
)
from tfrs_twotower.schema import Config, UsageError, UserError, parse_config
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.status_line import status_line

PARTITION_BYTES = 32 << 20  # Of interactions, as text.
MIN_PARTITIONS = 8


def build(pipeline: beam.Pipeline, job: Job, dataset: Dataset) -> None:
    """Adds the whole job to a pipeline.

    Args:
        pipeline: To add to.
        job: What is the same in every worker.
        dataset: The files to read.
    """

    def read(kind: str, catalogue: AsSingleton | None) -> Pieces:
        files = ReadFiles(job, kind, dataset.of(kind), catalogue)
        return pipeline | f"Read{kind.capitalize()}" >> files

    candidates, profiles = read(CANDIDATES, None), read(QUERIES, None)
    staged_candidates = candidates.tables | "StageCandidates" >> StageCandidates(job)
    if job.has_candidates:
        catalogue_path = staged_candidates.ids | "Catalogue" >> StageCatalogue(job)
        events = read(INTERACTIONS, AsSingleton(catalogue_path))
        candidate_parts = staged_candidates.parts
    else:
        events = read(INTERACTIONS, None)
        catalogue_path = events.candidate_ids | "Catalogue" >> StageCatalogue(job)
        candidate_parts = (
            catalogue_path
            | "Parts"
            >> beam.FlatMap(lambda path, num: [(n, "") for n in range(num)], job.num_buckets)
            | "SpreadParts" >> beam.Reshuffle()
        )
    catalogue = AsSingleton(catalogue_path)
    pieces = {EVENTS: events.tables, PROFILES: profiles.tables}
    staged = pieces | "StagePartitions" >> StagePartitions(job, catalogue)
    cutoffs, partitions = AsSingleton(staged.cutoffs), staged.partitions
    corpus_aggregates, reports = [], []
    if job.config.query_aggregates or job.config.candidate_aggregates:
        find = FindAggregates(job, staged.cutoffs, catalogue)
        partitions, at_end, audited = partitions | "FindAggregates" >> find
        reports.append(audited)
        if job.config.candidate_aggregates:
            corpus_aggregates.append(AsSingleton(at_end))
    counts = [partitions | "CountPartition" >> beam.ParDo(CountPartition(job), cutoffs, catalogue)]
    if job.has_candidates:
        counts.append(candidate_parts | "CountCandidates" >> beam.ParDo(CountCandidates(job)))
    counted = counts | "Counts" >> beam.Flatten() | "MergeCounts" >> MergeCounts(job, catalogue)
    corpus = (catalogue, AsSingleton(counted.candidate_counts), AsDict(counted.vocabularies))
    by_number = partitions | "ByNumber" >> beam.Map(lambda staged: (staged.number, staged))
    written = (
        {STAGED: by_number, QUERY_ROWS: staged.query_rows}
        | "WithQueryRows" >> beam.CoGroupByKey()
        | "WritePartition"
        >> beam.ParDo(WritePartition(job), cutoffs, AsSingleton(staged.num_queries), *corpus)
    )
    described = candidate_parts | "WriteCandidates" >> beam.ParDo(
        WriteCandidates(job), *corpus, *corpus_aggregates
    )
    facts = {
        ("cutoffs",): staged.cutoffs,
        ("num_queries",): staged.num_queries,
        ("paths", "catalogue"): catalogue_path,
        ("paths", "candidate_counts"): counted.candidate_counts,
    }
    reports += [
        fact | f"Report{''.join(map(str.capitalize, keys))}" >> beam.Map(_as_fact, keys)
        for keys, fact in facts.items()
    ]
    parts = (candidates, profiles, events, staged_candidates, staged)
    rejected = [part.rejected for part in parts] | "Rejected" >> beam.Flatten()
    reports += [part.report for part in parts]
    reports += [counted.report, written, described, rejected | WriteRejected(job)]
    _ = reports | "Reports" >> beam.Flatten() | "WriteReport" >> WriteReport(job.run)


def _as_fact(value: Any, keys: Sequence[str]) -> str:
    for key in reversed(keys):
        value = {key: value}
    return json.dumps(value)


def prepare(
    config: Config,
    dataset: str,
    output: str,
    *,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
    max_rejected_share: float = DEFAULT_MAX_REJECTED_SHARE,
    cache: str | None = None,
    progress: Callable[[str], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Prepares training data from a dataset folder.

    Args:
        config: Columns, labels, features, split.
        dataset: Folder with the files, on any filesystem Beam reads.
        output: The prepared folder to write, on a filesystem that every worker reaches.
        beam_args: Beam options, such as `--runner=...`.
        overwrite: Whether a finished prepared folder may be replaced.
        max_rejected_share: Share of records (0 to 1) that may be rejected.
        cache: Folder for what is parsed of the files, on a filesystem that every worker reaches:
            of a file that has not changed since a job with it, nothing is read.
        progress: Is told twice a second how far the job is, in one line.
        tell: Is told at the end how much came from the cache, in one line.

    Returns:
        The manifest, as written.

    Raises:
        UsageError: If the output folder is finished or not ours, or Flink needs more tasks.
        UserError: If the data cannot be used, or the disk is full.
    """
    options = beam_options(beam_args)
    FileSystems.set_options(options)
    kept = None if cache is None else Cache(cache, dataset)
    files = open_dataset(dataset, config, cut_file if kept is None else kept.cut_file)
    check_flink_tasks(options, files.interaction_bytes)
    check_heads(files, config, max_rejected_share)
    with output_run(output, overwrite=overwrite) as run:
        job = Job(
            run=run,
            config_path=write_config(run, config),
            has_candidates=bool(files.of(CANDIDATES)),
            num_partitions=max(MIN_PARTITIONS, -(-files.interaction_bytes // PARTITION_BYTES)),
            num_candidate_partitions=-(-files.candidate_bytes // PARTITION_BYTES) or 1,
        )
        if kept:
            kept.begin()
        pipeline = beam.Pipeline(options=options)
        build(pipeline, job, files)
        watched = watching(len(files.chunks), job.num_partitions, progress) if progress else None
        _run(pipeline, watched)
        report = read_report(run)
        check_report(report, job, max_rejected_share)
        manifest = publish_report(report, job, overwrite=overwrite)
    if kept:
        told = kept.end(files.chunks)
        if tell:
            tell(told)
    return manifest


def _run(pipeline: beam.Pipeline, watched: AbstractContextManager[Watch] | None) -> None:
    """Runs a pipeline to its end.

    Raises:
        UserError: If a worker could not read a file of the dataset.
    """
    try:
        with watched or nullcontext(Watch()) as watch:
            watch.result = pipeline.run()
            watch.result.wait_until_finish()
    except Exception as error:
        # Of a worker's error a runner may keep no more than the text.
        found = re.search(rf"{UNREADABLE} [^\n]*", str(error))
        if found is None:
            raise
        raise UserError(found.group().rstrip("'\"])")) from error


@ends_with_a_line
def main(argv: Sequence[str] | None = None, program: str = "python -m pipelines.prepare") -> int:
    """Runs the job as the command line says; returns the exit code.

    Args:
        argv: The command line; None: that of the process.
        program: How it was called, for messages.
    """
    share_a_heap()
    arguments = list(sys.argv[1:] if argv is None else argv)
    required = ("output",) if "--clean" in arguments else ("config", "dataset", "output")
    options = read_options(arguments, program, __doc__, PrepareOptions, required)
    own, written = options.view_as(PrepareOptions), options.view_as(OutputOptions)
    FileSystems.set_options(options)
    if own.clean:
        print(f"removed from {written.output}: {_described(clean(written.output))}")
        return 0
    config = parse_config(_text_of(own.config), own.config)
    with status_line() as line:
        manifest = prepare(
            config,
            own.dataset,
            written.output,
            beam_args=arguments,
            overwrite=written.overwrite,
            max_rejected_share=own.max_rejected_share,
            cache=own.cache,
            progress=line.update,
            tell=line.keep,
        )
    Console(markup=False).print(closing_table(manifest))
    if left := leftovers(written.output):
        print(
            f"left by other runs in {written.output}: {_described(left)}; where none is at work: "
            f"{program} --clean --output {written.output}",
            file=sys.stderr,
        )
    return 0


def _text_of(config: str) -> str:
    filesystem.check_reachable(config)
    try:
        return filesystem.read_bytes(config).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the config {config}: {first_line(error)}") from error


def _described(files: Sequence[tuple[str, int]]) -> str:
    megabytes = sum(size for _, size in files) / 1e6
    return f"{len(files):,} {'file' if len(files) == 1 else 'files'}, {megabytes:,.1f} MB"
