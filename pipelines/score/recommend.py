"""Recommends in batch: many queries and an exported model in, the best candidates of each out.

    python -m pipelines.recommend --models MODELS --queries FILE --output DIR --k 100
        [--format parquet|jsonl] [--rules JSON] [--exclude_known true|false] [--show ID,ID]
        [any Beam option]

The queries are Parquet, JSON lines or CSV: a row a query, with its id under the name of the id
feature and, where they are not to be looked up in MODELS/queries, its features by name; rules of
the `recommend` signature may stand there too (`exclude_ids`, `k`, ...), else `--rules` holds them
for all. A feature that is not known is missing, as online. What a query already had, its known
positives and its history, is left out unless the config or the command line says otherwise.

The output has one row a query: `query_id`, `candidate_ids` and `scores`, best first; `files.parts`
of its manifest.json lists the files.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared
from rich.console import Console
from rich.table import Table

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.output import Run, output_run
from pipelines.io.report import WriteReport, read_report, written_files, written_summary
from pipelines.io.shards import write_parquet
from pipelines.io.tables import column, from_ipc, to_ipc
from pipelines.options import OutputOptions, beam_options, ends_with_a_line, read_options
from pipelines.score.known_queries import JoinKnown, Stored, find_known, open_stored
from pipelines.score.queries import Exclusion, complete, read_queries
from pipelines.score.retrieval_model import (
    CANDIDATE_IDS,
    Contract,
    Model,
    read_contract,
    version_numbers,
)
from pipelines.score.show_queries import find_queries, show_queries
from tfrs_twotower.schema import Config, UserError, parse_config
from tfrs_twotower.schema.models_layout import (
    CANDIDATE_TOWER,
    CANDIDATES,
    EXCLUDE_IDS,
    EXTRA_ASSETS,
    QUERIES,
    RETRIEVAL_MODELS,
    TWOTOWER_CONFIG,
    newest_whole_version,
    preferred_model,
)
from tfrs_twotower.schema.requests import check_names, json_object, one_row, refusal

PARQUET, JSONL = "parquet", "jsonl"
PARTS = "parts"


class RecommendOptions(PipelineOptions):
    """What to answer, and with which models."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--models", help="The models folder.")
        parser.add_argument("--queries", help="Parquet, .jsonl or .csv, a row a query; a pattern.")
        parser.add_argument(
            "--k",
            type=int,
            default=10,
            help="How many candidates a query gets (default: %(default)s).",
        )
        parser.add_argument(
            "--format",
            default=PARQUET,
            choices=(PARQUET, JSONL),
            help="Of the output (default: %(default)s).",
        )
        parser.add_argument("--rules", default="{}", help="JSON: optional inputs for all queries.")
        parser.add_argument(
            "--exclude_known",
            choices=("true", "false"),
            help="Whether to leave out what a query already had (default: rules.exclude_known of "
            "the config).",
        )
        parser.add_argument("--show", default="", help="Ids, comma-separated, to look at closely.")


@dataclass(frozen=True)
class Request:
    """What is asked of every worker."""

    model: str  # Version folder of the model that answers.
    key: str  # Column of the queries' ids.
    rules: Mapping[str, Any]  # Values of optional inputs for all queries.
    exclusion: Exclusion | None  # Of what a query already had; None: of nothing.


class RetrievalHandler(ModelHandler[bytes, bytes, Model]):
    """Answers Arrow tables of queries; the model is loaded once a worker."""

    def __init__(self, request: Request) -> None:
        """Keeps what is asked."""
        super().__init__(max_batch_size=1)
        self._request = request

    def load_model(self) -> Model:
        """Loads the SavedModel."""
        return _load(self._request.model)

    def run_inference(
        self, batch: Sequence[bytes], model: Model, inference_args: dict[str, Any] | None = None
    ) -> Iterator[bytes]:
        """Answers tables, see `Model.answer`."""
        for table in map(from_ipc, batch):
            yield to_ipc(model.answer(table, self._request.key, self._request.rules))


# One copy a process: where the launcher is the worker too, both take the same.
_MODELS = Shared()


def _load(folder: str) -> Model:
    model: Model = _MODELS.acquire(lambda: Model(folder), tag=folder)
    return model


def recommend(
    models: str,
    queries: str,
    output: str,
    *,
    k: int = 10,
    rules: Mapping[str, Any] | None = None,
    exclude_known: bool | None = None,
    file_format: str = PARQUET,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
    show: Sequence[str] = (),
) -> dict[str, Any]:
    """Answers every query of some files.

    Args:
        models: The models folder; its newest version answers.
        queries: A file or a pattern, see the module.
        output: Folder to write, on a filesystem that every worker reaches.
        k: How many candidates a query gets, fewer where fewer are eligible.
        rules: Optional inputs of the `recommend` signature for all queries.
        exclude_known: Whether to leave out what a query already had: its known positives and its
            history. None: as `rules.exclude_known` of the version's config says.
        file_format: "parquet" or "jsonl".
        beam_args: Beam options.
        overwrite: Whether a finished output folder may be replaced.
        show: Ids of queries to print with their answers.

    Returns:
        The manifest: `num_queries`, `num_short` (queries with fewer than k answers), `version`,
        `excluded` ("known positives", "history" of a version that does not hold them, "nothing").

    Raises:
        UsageError: If the output folder is finished or not ours, or a rule is wrong.
        UserError: If the models or queries cannot be used.
    """
    options = beam_options(beam_args)
    FileSystems.set_options(options)
    for path in (models, queries, output):
        filesystem.check_reachable(path)
    version, model = _newest(models)
    rules = {"k": k, **(rules or {})}
    request, stored, excluded = _request(models, version, model, rules, exclude_known)
    contract = read_contract(request.model)
    files = [path for path, _ in filesystem.match(queries)]
    if not files:
        raise UserError(f"no queries at {queries}: expected Parquet, .jsonl or .csv")
    looked_at = find_queries(files, stored, contract, show) if show else {}
    _try_first(files, request, stored, contract)
    with output_run(output, overwrite=overwrite) as run:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(list(enumerate(files)))
                | "SpreadFiles" >> beam.Reshuffle()
                | "Read" >> beam.FlatMap(_read_keyed, contract, request.key)
                | "JoinKnown" >> JoinKnown(stored)
                | "Complete" >> beam.Map(_complete, request, contract)
                | "Answer" >> RunInference(KeyedModelHandler(RetrievalHandler(request)))
                | "Write" >> beam.FlatMap(_write, run, k, file_format)
                | "Report" >> WriteReport(run)
            )
        report = read_report(run)
        manifest = {
            "kind": "recommendations",
            "format": file_format,
            "model": model,
            "version": version,
            "k": k,
            "excluded": excluded,
            "num_queries": report["num_queries"],
            "num_short": report["num_short"],
        }
        manifest = run.publish(manifest, written_files(report), overwrite=overwrite)
    if looked_at:
        described = join(models, CANDIDATES, str(version))
        parts = [join(output, file["path"]) for file in manifest["files"][PARTS]]
        show_queries(described, parts, file_format, request.key, looked_at)
    return manifest


def _newest(models: str) -> tuple[int, str]:
    """The newest version, and its model that answers."""

    def wants_retrieval(version: int) -> bool:
        config = _read_config(models, version)
        return config is None or config.export.retrieval

    found = {name: version_numbers(join(models, name)) for name in RETRIEVAL_MODELS}
    version = newest_whole_version(found, wants_retrieval)
    if version is None:
        raise UserError(f"no models in {models}: make them with `twotower export`")
    return version, preferred_model([name for name in RETRIEVAL_MODELS if version in found[name]])


def _read_config(models: str, version: int) -> Config | None:
    """The config of a version; None where it has none."""
    path = join(models, CANDIDATE_TOWER, str(version), EXTRA_ASSETS, TWOTOWER_CONFIG)
    if not filesystem.match(path):
        return None
    return parse_config(filesystem.read_bytes(path).decode(), path)


def _request(
    models: str, version: int, model: str, rules: Mapping[str, Any], exclude_known: bool | None
) -> tuple[Request, Stored, str]:
    """The request, what is known of queries, and what is left out, in words."""
    folder = join(models, model, str(version))
    stored = open_stored(join(models, QUERIES, str(version)))
    check_names(rules, list(read_contract(folder).rules), "--rules")
    config = _read_config(models, version)
    if exclude_known is None:
        exclude_known = config is None or config.rules.exclude_known
    exclusion, excluded = None, "nothing"
    if exclude_known:
        history = config.history.name if config and config.history else None
        [everywhere] = one_row(EXCLUDE_IDS, object, 2, rules.get(EXCLUDE_IDS, [])).tolist()
        exclusion = Exclusion(history, everywhere)
        names = from_ipc(stored.nothing).column_names
        excluded = "known positives" if EXCLUDE_IDS in names else "history"
    return Request(folder, stored.key, dict(rules), exclusion), stored, excluded


def _try_first(files: Sequence[str], request: Request, stored: Stored, contract: Contract) -> None:
    """Answers one query here, so that what is wrong with a request is told before a job starts."""
    for path in files:
        for table in read_queries(path, contract, request.key):
            if table.num_rows:
                first = table.slice(0, 1)
                known = find_known(stored, column(first, request.key))
                asked = complete(first, known, request.key, contract, request.exclusion)
                try:
                    _load(request.model).answer(asked, request.key, request.rules)
                except tf.errors.InvalidArgumentError as error:
                    raise UserError(
                        f"the model refuses the queries: {refusal(error.message)}"
                    ) from error
                return
    raise UserError(f"no query in {', '.join(files)}")


def _read_keyed(
    numbered: tuple[int, str], contract: Contract, key: str
) -> Iterator[tuple[str, bytes]]:
    number, path = numbered
    for part, table in enumerate(read_queries(path, contract, key)):
        yield f"{number:05d}-{part:05d}", to_ipc(table)


def _complete(
    named: tuple[str, tuple[bytes, bytes]], request: Request, contract: Contract
) -> tuple[str, bytes]:
    name, tables = named
    table, known = map(from_ipc, tables)
    return name, to_ipc(complete(table, known, request.key, contract, request.exclusion))


def _write(named: tuple[str, bytes], run: Run, k: int, file_format: str) -> Iterator[str]:
    """Writes a file of answers; gives how many there are, how many are short, and the file."""
    name, data = named
    table = from_ipc(data)
    if file_format == PARQUET:
        file = write_parquet(run, f"part-{name}", table)
    else:
        path = run.new_path(f"part-{name}", f".{file_format}")
        with filesystem.create(path) as lines:
            for row in table.to_pylist():
                lines.write(f"{json.dumps(row)}\n".encode())
        file = run.written(path, lines, len(table))
    yield written_summary({PARTS: [file]})
    is_short = pc.less(pc.list_value_length(table.column(CANDIDATE_IDS)), k)
    num_short = pc.sum(is_short).as_py() or 0
    yield json.dumps({"num_queries": len(table), "num_short": num_short})


@ends_with_a_line
def main(argv: Sequence[str] | None = None, program: str = "python -m pipelines.recommend") -> int:
    """Runs the job as the command line says; returns the exit code.

    Args:
        argv: The command line; None: that of the process.
        program: How it was called, for messages.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    started = time.monotonic()
    required = ("models", "queries", "output")
    options = read_options(arguments, program, __doc__, RecommendOptions, required)
    own, to = options.view_as(RecommendOptions), options.view_as(OutputOptions)
    manifest = recommend(
        own.models,
        own.queries,
        to.output,
        k=own.k,
        rules=json_object("--rules", own.rules),
        exclude_known=None if own.exclude_known is None else own.exclude_known == "true",
        file_format=own.format,
        beam_args=arguments,
        overwrite=to.overwrite,
        show=own.show.split(",") if own.show else (),
    )
    seconds = time.monotonic() - started
    Console(markup=False, emoji=False).print(_closing_table(manifest, seconds, to.output))
    return 0


def _closing_table(manifest: Mapping[str, Any], seconds: float, output: str) -> Table:
    table = Table("", "", title=f"Recommended, in {output}", show_header=False)
    table.columns[1].justify = "right"
    num_queries = manifest["num_queries"]
    table.add_row("queries", f"{num_queries:,}")
    table.add_row(f"with fewer than {manifest['k']:,} answers", f"{manifest['num_short']:,}")
    table.add_row("left out", manifest["excluded"])
    table.add_row("model version", str(manifest["version"]))
    table.add_row("seconds, loading included", f"{seconds:,.1f}")
    table.add_row("queries/s", f"{num_queries / seconds:,.0f}")
    return table
