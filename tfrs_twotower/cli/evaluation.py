"""Commands that evaluate, compare and explain runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from tfrs_twotower.cli.evaluation_tables import (
    CUT_OFFS,
    print_attribution,
    print_click_through,
    print_comparison,
    print_drift,
    print_metrics,
    print_moments,
    print_operations,
    print_slices,
    print_users,
    warn_if_below_popularity,
)
from tfrs_twotower.cli.options import (
    DataOption,
    EvaluationOption,
    JsonFlag,
    LogsOption,
    MaxRankOption,
    ModelsOption,
    OutputOption,
    OverwriteOption,
    QueryOption,
    RunOption,
    SplitOption,
    examples,
)
from tfrs_twotower.cli.output import print_json, warn
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.requests import json_object

app = typer.Typer()

_MILVUS, _VERTEX = "milvus:", "vertex:"


@app.command(
    epilog=examples(
        "twotower evaluate --run demo/run --data demo/prepared",
        "twotower evaluate --run demo/run --data demo/prepared --protocol sampled:100 --unit event",
    )
)
def evaluate(
    run: RunOption,
    data: DataOption,
    split: SplitOption = "test",
    protocol: Annotated[
        str,
        typer.Option(
            help="full: rank the whole corpus; sampled:N or popular:N: among N negatives drawn "
            "uniformly or by popularity; given:FILE: among the lists of a Parquet file."
        ),
    ] = "full",
    unit: Annotated[
        str, typer.Option(help="user: each query once; event: each positive event by itself.")
    ] = "user",
    k: Annotated[
        list[int] | None,
        typer.Option(min=1, help="A cut-off of the metrics to show; repeat for more."),
    ] = None,
    relevant_from: Annotated[
        float, typer.Option("--relevant_from", help="Count only positives of this weight or more.")
    ] = 0.0,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Ranked lists to evaluate beside the model: Parquet with query_id and "
            "candidate_ids; repeat for more.",
        ),
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="A query id to show in detail; repeat for more.")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="The models folder exported from the run: also evaluate its answers, and what is "
            "missed by the model, the index and the rules."
        ),
    ] = None,
    rules: Annotated[
        str,
        typer.Option(help="JSON: optional inputs of `recommend` for all queries; with --models."),
    ] = "{}",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is stdout.")
    ] = None,
) -> None:
    """Rank the candidates for every query; metrics beside popularity, item-kNN and chance."""
    from tfrs_twotower import api

    if unit not in ("user", "event"):
        raise UsageError(f"--unit {unit}: expected user or event")
    if json_file and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise UsageError(f"--json {json_file}: expected a file in a folder that exists")
    evaluation = api.evaluate(
        run,
        data,
        split=split,
        protocol=protocol,
        unit=cast(Literal["user", "event"], unit),
        relevant_from=relevant_from,
        cut_offs=k or (),
        ranked_lists=dict(map(_named_file, baseline or ())),
        users=user or (),
        models=models,
        rules=json_object("--rules", rules),
    )
    report = {**evaluation.as_dict(), "operations": evaluation.serving_cost}
    if json_file == Path("-"):
        print_json(report)
    else:
        _print_evaluation(report, k or CUT_OFFS, bool(user))
        if json_file:
            _write_json(json_file, report)
    for hint in report["hints"]:
        warn(hint)
    warn_if_below_popularity(evaluation.is_below_popularity, report["hints"])


@app.command(
    "click-through",
    epilog=examples("twotower click-through --logs logs --dataset shop --within_s 3600"),
)
def click_through(
    logs: LogsOption,
    dataset: Annotated[Path, typer.Option(help="The dataset folder, with the clicks.")],
    config: Annotated[
        Path | None, typer.Option(help="The config; default: twotower.yaml of the dataset folder.")
    ] = None,
    within_s: Annotated[
        int,
        typer.Option("--within_s", min=0, help="Seconds in which a click is due to an impression."),
    ] = 86_400,
    max_rank: MaxRankOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare served versions by the clicks on what they showed: by version, label and rank."""
    from tfrs_twotower import api
    from tfrs_twotower.datasets.files import CONFIG_FILE

    found = api.click_through(
        logs, config or dataset / CONFIG_FILE, dataset, within_s=within_s, max_rank=max_rank
    )
    if as_json:
        print_json(
            {
                "by_arm": found.by_arm.to_dict("records"),
                "by_rank": found.by_rank.to_dict("records"),
                "within_s": found.within_s,
                "num_clicks": found.num_clicks,
                "num_unshown": found.num_unshown,
                "num_skipped": found.num_skipped,
            }
        )
    else:
        print_click_through(found)


@app.command(epilog=examples("twotower report --run demo/run --output report.html"))
def report(
    run: RunOption,
    output: Annotated[Path, typer.Option(help="The HTML file to write.")],
    models: Annotated[
        Path | None, typer.Option(help="The models folder exported from the run.")
    ] = None,
    drift: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What `twotower drift --json` wrote: show it too."),
    ] = None,
    evaluation: EvaluationOption = "test-full",
) -> None:
    """Write an evaluated run as one HTML page that needs no network."""
    from tfrs_twotower import api

    api.report(run, output, models=models, drift=drift, evaluation=evaluation)
    print(f"report in {output}")


@app.command(epilog=examples("twotower compare run-a run-b"))
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated runs, two or more.")],
    evaluation: EvaluationOption = "test-full",
    as_json: JsonFlag = False,
) -> None:
    """Compare runs on the same queries: metrics, significance, configs, lists."""
    from tfrs_twotower import api

    comparison = api.compare(runs, evaluation=evaluation)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison.as_dict())


@app.command(
    epilog=examples(
        "twotower drift prepared-monday prepared-tuesday",
        "twotower drift prepared-monday prepared-tuesday --fail_above 0.1 --json",
        "twotower drift prepared-monday --requests logs --split test",
    )
)
def drift(
    a: Annotated[Path, typer.Argument(metavar="PREPARED_A", help="The earlier prepared folder.")],
    b: Annotated[Path | None, typer.Argument(metavar="PREPARED_B", help="The later one.")] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            metavar="LOGS",
            help="Instead of PREPARED_B: the folder of a server's request log (`logging_config`).",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which examples: train, validation, test or all.")
    ] = "train",
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail_above",
            metavar="X",
            min=0.0,
            max=1.0,
            help="Exit with 1 if anything differs by more than X, and by more than chance.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare a prepared folder with another, or with served requests, beyond chance."""
    import tfrs_twotower as tt

    found = tt.drift(a, b, requests=requests, split=split)
    if as_json:
        print_json(found.as_dict())
    else:
        print_drift(found.as_dict())
    above = [] if fail_above is None else found.drifting(fail_above)
    if above:
        warn(f"drift above {fail_above:g}: " + ", ".join(f"{one.name} {one.what}" for one in above))
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "twotower embeddings --models demo/models --output store",
        "twotower embeddings --models demo/models --to mongodb://127.0.0.1/shop",
        "twotower embeddings --models demo/models --to milvus:shop.db",
        "twotower embeddings --models demo/models --to vertex:gs://BUCKET/batch",
    ),
)
def embeddings(
    models: ModelsOption,
    output: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="mongodb://HOST/DATABASE|milvus:ADDRESS|vertex:FOLDER",
            help="The database to write instead, in which the new version takes the place of the "
            "current one as a whole. MongoDB: candidates, and queries with what is known of them. "
            "Milvus: candidates; its address is http://HOST:19530, or a file FILE.db. Vertex AI "
            "Vector Search: candidates, as a batch to import; a folder, which may be on gs://.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the candidates' embeddings: Parquet and TensorBoard's projector, or a database."""
    from tfrs_twotower import api

    if (output is None) == (to is None):
        raise UsageError("name one place: --output FOLDER or --to DATABASE")
    if output is not None:
        written = api.embeddings(models, output, overwrite=overwrite)
        print(f"{written.num_candidates:,} embeddings of {written.embedding_dim} in {output}")
        return
    assert to is not None
    if to.startswith(_MILVUS):
        found = api.embeddings_to_milvus(models, to.removeprefix(_MILVUS))
        _tell_written(
            found.model_version, found.num_candidates, found.embedding_dim, found.collection
        )
        return
    if to.startswith(_VERTEX):
        batch = api.embeddings_to_vertex(models, to.removeprefix(_VERTEX))
        _tell_written(batch.model_version, batch.num_candidates, batch.embedding_dim, batch.file)
        return
    version = api.embeddings_to_mongodb(models, to)
    with_or_without = "with" if version.has_query_embeddings else "without"
    print(
        f"version {version.model_version}: {version.num_candidates:,} embeddings of "
        f"{version.embedding_dim}, {version.num_queries:,} queries {with_or_without} embeddings"
    )


def _tell_written(version: int, num_candidates: int, embedding_dim: int, place: str) -> None:
    print(f"version {version}: {num_candidates:,} embeddings of {embedding_dim} in {place}")


@app.command(
    "user-embeddings",
    epilog=examples("twotower user-embeddings --models demo/models --output users"),
)
def user_embeddings(
    models: ModelsOption, output: OutputOption, overwrite: OverwriteOption = False
) -> None:
    """Precompute the embeddings of all known users, where the context mode allows it."""
    from tfrs_twotower import api

    print(f"{api.user_embeddings(models, output, overwrite=overwrite):,} embeddings in {output}")


@app.command(
    epilog=examples(
        "twotower explain --run demo/run --data demo/prepared --candidate i0007 --query "
        """'{"user_id": "u0042"}'"""
    )
)
def explain(
    run: RunOption,
    data: DataOption,
    query: QueryOption,
    candidate: Annotated[str, typer.Option(help="The id of the candidate to explain.")],
    as_json: JsonFlag = False,
) -> None:
    """Explain a score: the nearest of the history, the contribution of each feature."""
    from tfrs_twotower import api

    explanation = api.explain(run, data, json_object("--query", query), candidate)
    if as_json:
        print_json(explanation.as_dict())
    else:
        print("\n".join(explanation.in_words()))


@app.command(
    epilog=examples(
        "twotower sensitivity --run demo/run --data demo/prepared --context "
        """'{"clock": 1717000000}'"""
    )
)
def sensitivity(
    run: RunOption,
    data: DataOption,
    context: Annotated[
        str | None,
        typer.Option(help="""JSON of context features, '{"at": 1709712000}'; default: 08:00."""),
    ] = None,
    versus: Annotated[
        str | None, typer.Option(help="Of another moment, likewise; default: 20:00 of that day.")
    ] = None,
    split: SplitOption = "test",
    as_json: JsonFlag = False,
) -> None:
    """Compare the recommendations of two moments: the overlap of the ten best."""
    from tfrs_twotower import api

    moments = {
        name: None if text is None else json_object(option, text)
        for name, option, text in (("first", "--context", context), ("second", "--versus", versus))
    }
    found = api.sensitivity(run, data, split=split, **moments)
    if as_json:
        print_json(found._asdict())
        return
    print(
        f"{found.overlap_at_10:.1%} of the ten best are the same in {json.dumps(found.first)} and "
        f"{json.dumps(found.second)}, over {found.num_queries:,} users (context mode: "
        f"{found.context_mode or 'no context'})"
    )


def _print_evaluation(report: dict[str, Any], cut_offs: Sequence[int], with_users: bool) -> None:
    print_metrics(report, cut_offs)
    print_slices(report, cut_offs)
    if "attribution" in report:
        print_attribution(report)
    if with_users:
        print_users(report["users"])
    print_moments(report["morning_and_evening"])
    print_operations(report["operations"])


def _write_json(path: Path, report: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _named_file(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator:
        raise UsageError(f"--baseline {text}: expected NAME=FILE")
    return name, path
