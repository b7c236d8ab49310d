"""The `twotower` command: parses, calls, prints. Imported by nobody."""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfrs_twotower.display import print_error, print_metrics, print_table, warn
from tfrs_twotower.schema import UsageError, UserError, load_config

if TYPE_CHECKING:
    from tfrs_twotower.evaluate import Evaluation

# TensorFlow's own log lines say nothing to a user of these commands.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

app = typer.Typer(
    help="From interaction logs to a recommender behind TF Serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MEANING_OF_LABEL = {1: "positive", 0: "negative", None: "rejected"}

ConfigOption = Annotated[Path, typer.Option("--config", help="The config, twotower.yaml.")]
DataOption = Annotated[Path, typer.Option("--data", help="The prepared folder.")]
RunOption = Annotated[Path, typer.Option("--run", help="The run folder.")]
OutputOption = Annotated[Path, typer.Option("--output", help="The folder to write.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished output folder.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="sample, movielens-100k, movielens-1m, ngcf, ...")],
    output: OutputOption,
    source: Annotated[
        Path | None, typer.Option(help="Folder of the original files, plain or .gz.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Writes a data set as a dataset folder: a log, its candidates, a config."""
    from tfrs_twotower.datasets import write_dataset

    counts = write_dataset(name, output, source, overwrite=overwrite)
    if as_json:
        _print_json(counts)
    else:
        print_table(f"{name} in {output}", ["", "count"], list(counts.items()))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Holds interactions*, candidates*, queries*.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Looks at a log, writes a commented twotower.yaml, previews labels and split."""
    from tfrs_twotower.datasets.inspect import inspect_dataset, write_config

    seen = inspect_dataset(folder)
    path = write_config(folder, seen, overwrite=overwrite)
    part = "" if seen.is_whole_log else f"the first {seen.num_rows:,} rows of "
    print_table(
        f"Looked at {part}{', '.join(seen.files['interactions'])}",
        ["column", "taken for", "file"],
        [[guess.column, guess.meaning, guess.file] for guess in seen.columns],
    )
    if seen.first_rows:
        names = list(seen.first_rows[0])
        print_table("First rows", names, [list(row.values()) for row in seen.first_rows])
    print_table(
        "Labels",
        ["value", "rows", "becomes", "weight"],
        [
            [f"{label.column or ''} {label.value}", label.rows, MEANING_OF_LABEL[label.label]]
            + [label.weight]
            for label in seen.labels
        ],
    )
    print_table(
        "Split",
        ["split", "rows", "from", "to"],
        [[part.split, part.rows, _day(part.first_s), _day(part.last_s)] for part in seen.splits],
    )
    for warning in seen.warnings:
        warn(warning)
    print(
        f"{path} written: read it, correct it, then\n  python -m pipelines.prepare "
        f"--config {path} --dataset {folder} --output prepared"
    )


@app.command()
def train(
    config: ConfigOption,
    data: DataOption,
    output: OutputOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Overrides a key: path.to.key=value."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was stopped.")
    ] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", metavar="MODELS", help="Export to MODELS at the end.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Trains the two towers and keeps the best epoch."""
    from tfrs_twotower import api

    checked = load_config(config, overrides or ())
    trained = api.train(checked, data, output, overwrite=overwrite, resume=resume)
    report = trained.validation.as_dict() if trained.validation else None
    if as_json:
        _print_json({"best_epoch": trained.best_epoch + 1, "validation": report})
    elif trained.validation and report:
        print_metrics(report)
        print(f"best epoch {trained.best_epoch + 1} of {len(trained.epochs)}; run in {output}")
    else:
        warn("the validation split is empty: the last epoch was kept")
    if trained.validation:
        _warn_if_below_popularity(trained.validation)
    if export_to is not None:
        _export(output, data, export_to, None, as_json)


@app.command()
def evaluate(
    run: RunOption,
    data: DataOption,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    unit: Annotated[
        str, typer.Option(help="user: each query once; event: each positive event.")
    ] = "user",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Ranked lists beside the model: Parquet with query_id and candidate_ids.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is stdout.")
    ] = None,
) -> None:
    """Ranks the whole corpus, beside popularity and chance."""
    from tfrs_twotower import api

    if unit not in ("user", "event"):
        raise UsageError(f"--unit {unit}: expected user or event")
    evaluation = api.evaluate(
        run, data, split=split, unit=unit, ranked_lists=dict(map(_named_file, baseline or ()))
    )
    report = evaluation.as_dict()
    if json_file == Path("-"):
        _print_json(report)
    else:
        for part, count in report["num_queries"].items():
            if count:
                print_metrics(report, part)
    if json_file not in (None, Path("-")):
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _warn_if_below_popularity(evaluation)


@app.command()
def export(
    run: RunOption,
    data: DataOption,
    output: OutputOption,
    config_base_path: Annotated[
        str | None,
        typer.Option(
            "--config_base_path", help="Where the server will see the folder; default: here."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Publishes the next version of every SavedModel, and the server's configs."""
    _export(run, data, output, config_base_path, as_json)


@app.command()
def recommend(
    query: Annotated[str, typer.Option(help="""JSON, for example '{"user_id": "42"}'.""")],
    models: Annotated[Path | None, typer.Option(help="The models folder.")] = None,
    target: Annotated[str | None, typer.Option(help="host:port of a running server.")] = None,
    k: Annotated[int, typer.Option(help="How many candidates.")] = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A candidate not to recommend; repeat for more.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Asks for recommendations over gRPC, of a server or of a models folder."""
    from tfrs_twotower import api

    try:
        values = json.loads(query)
    except ValueError as error:
        raise UsageError(f"--query is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError("""--query: expected an object such as '{"user_id": "42"}'""")
    answer = api.recommend(models, values, target=target, k=k, exclude_ids=exclude or ())
    if as_json:
        _print_json(answer._asdict())
        return
    titles = api.titles(models) if models else {}
    rows = [
        [str(rank), candidate_id, titles.get(candidate_id, ""), score]
        for rank, (candidate_id, score) in enumerate(
            zip(answer.candidate_ids, answer.scores, strict=True), 1
        )
    ]
    print_table(f"model version {answer.model_version}", ["", "candidate", "title", "score"], rows)


@app.command()
def demo(
    dataset: Annotated[
        str, typer.Option(help="sample, movielens-100k, movielens-1m, or a dataset folder.")
    ] = "sample",
    source: Annotated[Path | None, typer.Option(help="Folder of the original files.")] = None,
    workdir: Annotated[Path, typer.Option(help="Where the folders are written.")] = Path("demo"),
    overwrite: OverwriteOption = False,
) -> None:
    """Runs every step, from a log to recommendations over gRPC."""
    from tfrs_twotower.demo import run_demo

    run_demo(dataset, source, workdir, overwrite=overwrite)


def _export(
    run: Path, data: Path, output: Path, config_base_path: str | None, as_json: bool
) -> None:
    from tfrs_twotower import api

    exported = api.export(run, data, output, config_base_path=config_base_path)
    if as_json:
        _print_json({"models": str(output), "version": exported.version})
    else:
        print(f"version {exported.version} published in {output}")


def _day(second: int | None) -> str | None:
    return None if second is None else f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}"


def _named_file(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator:
        raise UsageError(f"--baseline {text}: expected NAME=FILE")
    return name, path


def _warn_if_below_popularity(evaluation: "Evaluation") -> None:
    if evaluation.is_below_popularity:
        warn(
            "the model is below popularity: train longer, change the learning rate or the "
            "features, and do not serve it as it is"
        )


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=lambda other: other.tolist()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0: done, 1: failed, 2: misused."""
    try:
        app(args=arguments, prog_name="twotower")
    except UserError as error:
        print_error(error)
        return error.exit_code
    except SystemExit as done:  # Typer's own way out, misuse included.
        return int(done.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
