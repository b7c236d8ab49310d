"""Recommends in batch: many queries and an exported model in, the best candidates of each out.

    python -m pipelines.recommend --models MODELS --queries FILE --output DIR --k 100
        [--format parquet|jsonl] [--rules JSON] [--exclude_values_of FEATURE] [--show ID,ID] [any Beam option]

The queries are Parquet, JSON lines or CSV: a row a query, with its id under the name of the id
feature and, where they are not to be looked up in MODELS/queries, its features by name; rules of
the `recommend` signature may stand there too (`exclude_ids`, `k`, ...), else `--rules` holds them
for all. A feature that nobody knows is missing, as online.

The output has one row a query: `query_id`, `candidate_ids` and `scores`, best first. A file is
named after the part of the input that it answers and appears by rename, so a retried bundle writes
the same file again.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import tensorflow as tf
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console
from rich.table import Table

from pipelines import filesystem
from pipelines.answers import (
    CANDIDATE_IDS,
    Contract,
    Model,
    arrow_type,
    check_names,
    read_contract,
)
from pipelines.concept import show_users
from pipelines.filesystem import join
from pipelines.options import OutputOptions, beam_options, require
from pipelines.tables import column, from_ipc, to_ipc
from tfrs_twotower.schema import UsageError, UserError

PARQUET, JSONL = "parquet", "jsonl"
ROWS_A_FILE = 1 << 15
RETRIEVAL, QUERIES = "retrieval", "queries"
QUERY_KEY = b"query_key"
EXCLUDE_IDS = "exclude_ids"
REPORT = "report.json"


class RecommendOptions(PipelineOptions):
    """What to answer, and with which models."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--models", help="The models folder.")
        parser.add_argument("--queries", help="Parquet, .jsonl or .csv, a row a query; a pattern.")
        parser.add_argument("--k", type=int, default=10, help="How many candidates a query gets.")
        parser.add_argument("--format", default=PARQUET, choices=(PARQUET, JSONL))
        parser.add_argument("--rules", default="{}", help="JSON: optional inputs for all queries.")
        parser.add_argument(
            "--exclude_values_of",
            metavar="FEATURE",
            help="Never recommend what this feature of the query holds, such as its history.",
        )
        parser.add_argument("--show", default="", help="Ids, comma-separated, to look at closely.")


@dataclass(frozen=True)
class Request:
    """What is asked of every worker."""

    model: str  # Version folder of `retrieval`.
    stored: str  # Folder of what is known of queries.
    key: str  # Column of the queries' ids.
    rules: Mapping[str, Any]  # Values of optional inputs for all queries.
    excluded_feature: str | None  # Whose values are excluded too; None: nothing.


class RetrievalHandler(ModelHandler[bytes, bytes, Model]):
    """Answers Arrow tables of queries; the model is loaded once a worker."""

    def __init__(self, request: Request) -> None:
        """Keeps what is asked."""
        super().__init__(max_batch_size=1)
        self._request = request

    def load_model(self) -> Model:
        """Loads the SavedModel."""
        return Model(self._request.model)

    def run_inference(
        self, batch: Sequence[bytes], model: Model, inference_args: dict[str, Any] | None = None
    ) -> Iterator[bytes]:
        """Answers tables, see `Model.answer`."""
        for table in map(from_ipc, batch):
            yield to_ipc(answer(model, table, self._request))


def answer(model: Model, table: pa.Table, request: Request) -> pa.Table:
    """Fills in what is known of the queries, and answers them."""
    completed = complete(table, request, model.contract)
    return model.answer(completed, request.key, request.rules)


def complete(table: pa.Table, request: Request, contract: Contract) -> pa.Table:
    """Adds to queries what the models folder knows of them.

    Args:
        table: Queries; a value that is there is kept, null and an absent column are filled in.
        request: Where the knowledge is.
        contract: Which features there are.

    Returns:
        The same rows in the same order.
    """
    ids = column(table, request.key)
    wanted = pc.field(request.key).isin(pc.unique(ids))
    known = pq.read_table(request.stored, filters=wanted).combine_chunks()
    places = pc.index_in(ids, column(known, request.key))
    for name in known.column_names:
        if name == request.key or name not in contract.features:
            continue
        stored = column(known, name).take(places).cast(arrow_type(contract.features[name]))
        if name in table.column_names:
            given = pc.coalesce(column(table, name), stored)
            table = table.set_column(table.column_names.index(name), name, given)
        else:
            table = table.append_column(name, stored)
    if request.excluded_feature in table.column_names:
        table = _excluding(table, request.excluded_feature)
    return table


def _excluding(table: pa.Table, feature: str) -> pa.Table:
    """Excludes what a feature holds, beside what is excluded already."""
    nothing = pa.scalar([], pa.list_(pa.string()))
    had = pc.fill_null(column(table, feature), nothing)
    if EXCLUDE_IDS not in table.column_names:
        return table.append_column(EXCLUDE_IDS, had)
    given = pc.fill_null(column(table, EXCLUDE_IDS), nothing)
    place = table.column_names.index(EXCLUDE_IDS)
    return table.set_column(place, EXCLUDE_IDS, _concat_lists(given, had))


def _concat_lists(first: pa.ListArray, second: pa.ListArray) -> pa.ListArray:
    both = pa.concat_arrays([pc.list_flatten(first), pc.list_flatten(second)])
    rows = pa.concat_arrays([pc.list_parent_indices(first), pc.list_parent_indices(second)])
    order = pc.array_sort_indices(rows)
    lengths = pc.add(pc.list_value_length(first), pc.list_value_length(second))
    offsets = pa.concat_arrays(
        [pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())]
    )
    return pa.ListArray.from_arrays(offsets, both.take(order))


def read_queries(path: str, contract: Contract, key: str) -> Iterator[pa.Table]:
    """Reads a file of queries, at most `ROWS_A_FILE` rows at a time.

    Args:
        path: On any Beam filesystem.
        contract: Decides the types of the columns.
        key: The column of ids; always text.

    Raises:
        UserError: If the file cannot be read, lacks the ids, or holds another type.
    """
    types = {
        name: arrow_type(spec) for name, spec in {**contract.features, **contract.rules}.items()
    }
    types[key] = pa.string()
    try:
        with filesystem.open_raw(path) as file:
            if path.endswith(".parquet"):
                tables = (
                    pa.Table.from_batches([batch])
                    for batch in pq.ParquetFile(file).iter_batches(ROWS_A_FILE)
                )
                for table in tables:
                    yield _checked(table, types, contract, key, path)
                return
            if path.endswith(".jsonl"):
                schema = pa.schema(list(types.items()))
                options = pa.json.ParseOptions(explicit_schema=schema)
                table = pa.json.read_json(file, parse_options=options)
                given = [name for name in table.column_names if _is_given(table, name)]
                table = table.select([*dict.fromkeys([key, *given])])
            else:
                scalars = {name: kind for name, kind in types.items() if not pa.types.is_list(kind)}
                options = pa.csv.ConvertOptions(column_types=scalars, strings_can_be_null=True)
                table = pa.csv.read_csv(file, convert_options=options)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the queries {path}: {_first_line(error)}") from error
    table = _checked(table, types, contract, key, path)
    for start in range(0, table.num_rows, ROWS_A_FILE):
        yield table.slice(start, ROWS_A_FILE)


def _is_given(table: pa.Table, name: str) -> bool:
    return table.column(name).null_count < table.num_rows


def _checked(
    table: pa.Table, types: Mapping[str, pa.DataType], contract: Contract, key: str, path: str
) -> pa.Table:
    check_names(table.column_names, contract, key, path)
    if key not in table.column_names:
        raise UserError(f"{path} has no column `{key}`, the id of a query")
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = table.column(name).cast(types[name])
        except pa.ArrowException as error:
            raise UserError(
                f"{path}: column `{name}` must be {types[name]}, got {table.schema.field(name).type}"
            ) from error
    if columns[key].null_count:
        raise UserError(f"{path}: `{key}` is missing in {columns[key].null_count:,} rows")
    return pa.table(columns)


def recommend(
    models: str,
    queries: str,
    output: str,
    *,
    k: int = 10,
    rules: Mapping[str, Any] | None = None,
    exclude_values_of: str | None = None,
    file_format: str = PARQUET,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Answers every query of some files.

    Args:
        models: The models folder; its newest version of `retrieval` answers.
        queries: A file or a pattern, see the module.
        output: Folder to write, on a filesystem that every worker reaches.
        k: How many candidates a query gets, fewer where fewer are eligible.
        rules: Optional inputs of the `recommend` signature for all queries.
        exclude_values_of: A feature whose values are excluded, such as the history.
        file_format: "parquet" or "jsonl".
        beam_args: Beam options.
        overwrite: Whether a finished output folder may be replaced.

    Returns:
        The manifest: `num_queries`, `num_short` (queries with fewer than k answers), `version`.

    Raises:
        UsageError: If the output folder is finished or not ours, or a rule is wrong.
        UserError: If the models or queries cannot be used.
    """
    version = _latest_version(models)
    request, contract = _request(models, version, {"k": k, **(rules or {})}, exclude_values_of)
    files = [path for path, _ in filesystem.match(queries)]
    if not files:
        raise UserError(f"no queries at {queries}: expected Parquet, .jsonl or .csv")
    _try_first(files, request, contract)
    with filesystem.output_folder(output, overwrite=overwrite) as staging:
        with beam.Pipeline(options=beam_options(beam_args)) as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(list(enumerate(files)))
                | "SpreadFiles" >> beam.Reshuffle()
                | "Read" >> beam.FlatMap(_read_keyed, contract, request.key)
                | "Spread" >> beam.Reshuffle()
                | "Answer" >> RunInference(KeyedModelHandler(RetrievalHandler(request)))
                | "Write" >> beam.Map(_write, output, staging, k, file_format)
                | "Total" >> beam.CombineGlobally(_total)
                | "Report" >> beam.Map(_write_report, staging)
            )
        counts = json.loads(filesystem.read_bytes(join(staging, REPORT)))
        manifest = {
            "kind": "recommendations",
            "format": file_format,
            "version": version,
            "k": k,
            "num_queries": counts[0],
            "num_short": counts[1],
        }
        filesystem.write_manifest(output, manifest, staging)
    return manifest


def _latest_version(models: str) -> int:
    base_path = join(models, RETRIEVAL)
    names = tf.io.gfile.listdir(base_path) if tf.io.gfile.isdir(base_path) else []
    versions = [int(name.rstrip("/")) for name in names if name.rstrip("/").isdecimal()]
    if not versions:
        raise UserError(f"no models in {models}: make them with `twotower export`")
    return max(versions)


def _request(
    models: str, version: int, rules: Mapping[str, Any], excluded_feature: str | None
) -> tuple[Request, Contract]:
    model, stored = (join(models, name, str(version)) for name in (RETRIEVAL, QUERIES))
    contract = read_contract(model)
    with filesystem.open_raw(filesystem.match(join(stored, "*.parquet"))[0][0]) as file:
        key = pq.read_schema(file).metadata[QUERY_KEY].decode()
    check_names(list(rules), contract._replace(features={}), "k", "--rules")
    if excluded_feature is not None:
        spec = contract.features.get(excluded_feature)
        if spec is None or spec.dtype != tf.string or spec.shape.rank != 2:
            raise UsageError(
                f"--exclude_values_of {excluded_feature}: expected a feature that is a list of "
                "candidate ids, such as the history"
            )
    return Request(model, stored, key, dict(rules), excluded_feature), contract


def _try_first(files: Sequence[str], request: Request, contract: Contract) -> None:
    """Answers one query here, so that what is wrong with a request is told before a job starts."""
    for path in files:
        for table in read_queries(path, contract, request.key):
            if table.num_rows:
                try:
                    answer(Model(request.model), table.slice(0, 1), request)
                except tf.errors.InvalidArgumentError as error:
                    raise UserError(f"the model refuses the queries: {_reason(error)}") from error
                return
    raise UserError(f"no query in {', '.join(files)}")


def _reason(error: tf.errors.InvalidArgumentError) -> str:
    """What the model's own check says, without TensorFlow's frame."""
    lines = [line for line in str(error.message).splitlines() if "`" in line]
    text = lines[0] if lines else _first_line(error)
    return text[text.find("`") :].replace("' '", " ").strip("'\"[] ")


def _read_keyed(
    numbered: tuple[int, str], contract: Contract, key: str
) -> Iterator[tuple[str, bytes]]:
    number, path = numbered
    for part, table in enumerate(read_queries(path, contract, key)):
        yield f"{number:05d}-{part:05d}", to_ipc(table)


def _write(
    named: tuple[str, bytes], output: str, staging: str, k: int, file_format: str
) -> tuple[int, int]:
    """Writes a file of answers; returns how many there are, and how many are short."""
    name, data = named
    table = from_ipc(data)
    path = join(output, f"part-{name}.{file_format}")
    with filesystem.create(path, staging) as file:
        if file_format == PARQUET:
            pq.write_table(table, file)
        else:
            file.writelines(f"{json.dumps(row)}\n".encode() for row in table.to_pylist())
    is_short = pc.less(pc.list_value_length(table.column(CANDIDATE_IDS)), k)
    return table.num_rows, pc.sum(is_short).as_py() or 0


def _total(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    pairs = list(counts)
    return sum(rows for rows, _ in pairs), sum(short for _, short in pairs)


def _write_report(counts: tuple[int, int], staging: str) -> None:
    filesystem.write_bytes(join(staging, REPORT), json.dumps(counts).encode(), staging)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job as the command line says; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = PipelineOptions(arguments)
    own, to = options.view_as(RecommendOptions), options.view_as(OutputOptions)
    started = time.monotonic()
    try:
        require(options, ("models", "queries", "output"), "pipelines.recommend")
        manifest = recommend(
            own.models,
            own.queries,
            to.output,
            k=own.k,
            rules=_rules(own.rules),
            exclude_values_of=own.exclude_values_of,
            file_format=own.format,
            beam_args=arguments,
            overwrite=to.overwrite,
        )
        seconds = time.monotonic() - started
        if own.show:
            show_users(own.models, to.output, manifest, own.show.split(","))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    Console().print(_closing_table(manifest, seconds, to.output))
    return 0


def _rules(text: str) -> dict[str, Any]:
    try:
        rules = json.loads(text)
    except ValueError as error:
        raise UsageError(f"--rules is not JSON: {error}") from error
    if not isinstance(rules, dict):
        raise UsageError("""--rules: expected an object such as '{"min_score": 0.2}'""")
    return rules


def _closing_table(manifest: Mapping[str, Any], seconds: float, output: str) -> Table:
    table = Table("", "", title=f"Recommended, in {output}", show_header=False)
    table.columns[1].justify = "right"
    num_queries = manifest["num_queries"]
    table.add_row("queries", f"{num_queries:,}")
    table.add_row(f"with fewer than {manifest['k']:,} answers", f"{manifest['num_short']:,}")
    table.add_row("model version", str(manifest["version"]))
    table.add_row("seconds, loading included", f"{seconds:,.1f}")
    table.add_row("queries/s", f"{num_queries / seconds:,.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
