"""Embeds candidates or queries in batch: a prepared folder and an exported tower in, Parquet out.

    python -m pipelines.embed --model MODELS/candidate_tower --data PREPARED --output DIR
        [--side candidate|query] [any Beam option]

Each row of the output is an id and its embedding, `candidate_id` or `query_id` and `embedding`;
`files.embeddings` of its manifest.json lists the files. Queries are embedded with their history as
of now; context, which only a request knows, is refused.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.output import Run, output_run, published
from pipelines.io.report import WriteReport, read_report, written_files, written_summary
from pipelines.io.shards import write_parquet
from pipelines.io.tables import column, from_ipc, to_ipc
from pipelines.options import (
    EmbedOptions,
    OutputOptions,
    beam_options,
    ends_with_a_line,
    read_options,
)
from pipelines.score.retrieval_model import raw_values, version_numbers
from tfrs_twotower.features.encoding import raw_spec
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import Feature, History, Id
from tfrs_twotower.schema.folders import check_manifest

BATCH_ROWS = 1 << 15
EMBEDDING, EMBEDDINGS = "embedding", "embeddings"
MADE_BY = "twotower prepare"
# Side: files of the prepared folder, column of ids, output of the tower.
SIDES = {
    "candidate": (layout.CANDIDATE_ATTRIBUTES, layout.CANDIDATE_ID, "candidate_embedding"),
    "query": (layout.QUERIES, layout.QUERY_ID, "query_embedding"),
}


class TowerHandler(ModelHandler[bytes, bytes, Any]):
    """Runs an exported tower on Arrow tables of raw features, loaded once a worker."""

    def __init__(self, model: str, config: Config, side: str) -> None:
        """Names the tower.

        Args:
            model: The version folder of a SavedModel.
            config: Names the features of the side.
            side: "candidate" or "query".
        """
        super().__init__(max_batch_size=1)
        self._model, self._config, self._side = model, config, side

    def load_model(self) -> Any:
        """Loads the SavedModel."""
        with filesystem.local_copy(self._model) as local:
            return tf.saved_model.load(local)

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterator[bytes]:
        """Embeds tables, see `embed_table`."""
        tower = model.signatures["serving_default"]
        for table in map(from_ipc, batch):
            yield to_ipc(embed_table(tower, self._config, self._side, table))


def embed_table(tower: Any, config: Config, side: str, table: pa.Table) -> pa.Table:
    """Embeds the rows of a table.

    Args:
        tower: A signature that takes the side's raw features by name.
        config: Names the features.
        side: "candidate" or "query".
        table: Ids and raw features, as `candidate_attributes` and `queries` hold them.

    Returns:
        The ids and `embedding`, fixed-size lists of float32.
    """
    _, id_column, output = SIDES[side]
    features = config.candidate_features if side == "candidate" else config.query_features
    raw = {
        name: tf.constant(
            raw_values(raw_spec(feature, name), table, _source(feature, name, id_column))
        )
        for name, feature in features.items()
    }
    embeddings = tower(**raw)[output].numpy()
    flat = pa.array(embeddings.reshape(-1), pa.float32())
    lists = pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
    return pa.table({id_column: column(table, id_column), EMBEDDING: lists})


def _source(feature: Feature, name: str, id_column: str) -> str:
    if isinstance(feature, Id):
        return id_column
    return layout.HISTORY_NOW if isinstance(feature, History) else name


def embed(
    model: str,
    data: str,
    output: str,
    *,
    side: str = "candidate",
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Embeds all candidates or queries of a prepared folder.

    Args:
        model: A SavedModel's version folder, or the folder of its versions (the newest is taken).
        data: The prepared folder.
        output: Folder to write, on a filesystem that every worker reaches.
        side: "candidate" or "query".
        beam_args: Beam options.
        overwrite: Whether a finished output folder may be replaced.

    Returns:
        How many rows were embedded.

    Raises:
        UsageError: If the output folder is finished or not ours.
        UserError: If the prepared folder or the model cannot be used.
    """
    options = beam_options(beam_args)
    FileSystems.set_options(options)
    filesystem.check_reachable(data)
    filesystem.check_reachable(model)
    manifest = check_manifest(published(data), data, kind="prepared", made_by=MADE_BY)
    layout.check_format(manifest, data, MADE_BY)
    config = Config.model_validate_json(json.dumps(manifest["config"]), strict=False)
    if side == "query" and config.features.context:
        raise UserError(
            f"a query embedding depends on the moment ({', '.join(config.features.context)}): "
            "for models that can do without, see `twotower user-embeddings`"
        )
    version = _version_folder(model)
    files = [join(data, path) for path in layout.files_of(manifest, SIDES[side][0])]
    with output_run(output, overwrite=overwrite) as run:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Files" >> beam.Create(list(enumerate(files)))
                | "Spread" >> beam.Reshuffle()
                | "Read" >> beam.FlatMapTuple(_read_tables)
                | "Embed" >> RunInference(KeyedModelHandler(TowerHandler(version, config, side)))
                | "Write" >> beam.Map(_write_table, run)
                | "Report" >> WriteReport(run)
            )
        written = written_files(read_report(run))
        num_rows = sum(file.rows for file in written.get(EMBEDDINGS, []))
        manifest = {"kind": "embeddings", "side": side, "num_rows": num_rows}
        run.publish(manifest, written, overwrite=overwrite)
    return num_rows


def _version_folder(model: str) -> str:
    """The folder of the SavedModel itself: the newest version below a base path."""
    if filesystem.exists(join(model, "saved_model.pb")):
        return model
    numbers = version_numbers(model)
    if not numbers:
        raise UserError(f"{model} is no SavedModel and holds no version of one")
    return join(model, str(numbers[-1]))


def _read_tables(number: int, path: str) -> Iterator[tuple[str, bytes]]:
    with filesystem.open_raw(path) as file:
        for part, batch in enumerate(pq.ParquetFile(file).iter_batches(BATCH_ROWS)):
            yield f"{number:05d}-{part:05d}", to_ipc(pa.Table.from_batches([batch]))


def _write_table(element: tuple[str, bytes], run: Run) -> str:
    key, data = element
    written = write_parquet(run, f"{EMBEDDINGS}-{key}", from_ipc(data))
    return written_summary({EMBEDDINGS: [written]})


@ends_with_a_line
def main(argv: Sequence[str] | None = None, program: str = "python -m pipelines.embed") -> int:
    """Runs the job as the command line says; returns the exit code.

    Args:
        argv: The command line; None: that of the process.
        program: How it was called, for messages.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    required = ("model", "data", "output")
    options = read_options(arguments, program, __doc__, EmbedOptions, required)
    own, written = options.view_as(EmbedOptions), options.view_as(OutputOptions)
    num_rows = embed(
        own.model,
        own.data,
        written.output,
        side=own.side,
        beam_args=arguments,
        overwrite=written.overwrite,
    )
    print(f"{num_rows:,} embeddings in {written.output}")
    return 0
