"""Commands that judge a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tfrs_twotower.cli.display import (
    print_attribution,
    print_comparison,
    print_metrics,
    print_moments,
    print_operations,
    print_slices,
    print_users,
)
from tfrs_twotower.cli.options import (
    DataOption,
    JsonFlag,
    ModelsOption,
    OutputOption,
    OverwriteOption,
    RunOption,
    print_json,
    warn_if_below_popularity,
)
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.requests import json_object

app = typer.Typer()


@app.command()
def evaluate(
    run: RunOption,
    data: DataOption,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    protocol: Annotated[
        str,
        typer.Option(
            help="full: the whole corpus; sampled:N or popular:N: among N others at random or by "
            "popularity; given:FILE: among the lists of a Parquet file."
        ),
    ] = "full",
    unit: Annotated[
        str, typer.Option(help="user: each query once; event: each positive event.")
    ] = "user",
    relevant_from: Annotated[
        float, typer.Option("--relevant_from", help="Only positives of this weight or more count.")
    ] = 0.0,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Ranked lists beside the model: Parquet with query_id and candidate_ids.",
        ),
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help="A user to look at closely; repeat for more.")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(help="The models exported from the run: what they answer, who misses what."),
    ] = None,
    rules: Annotated[
        str,
        typer.Option(help="JSON: optional inputs of `recommend` for all users; with --models."),
    ] = "{}",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is stdout.")
    ] = None,
) -> None:
    """Ranks the corpus, beside popularity, neighbours and chance."""
    from tfrs_twotower import api

    if unit not in ("user", "event"):
        raise UsageError(f"--unit {unit}: expected user or event")
    is_stdout = json_file == Path("-")
    if json_file and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise UsageError(f"--json {json_file}: expected a file in a folder that exists")
    evaluation = api.evaluate(
        run,
        data,
        split=split,
        protocol=protocol,
        unit=unit,
        relevant_from=relevant_from,
        ranked_lists=dict(map(_named_file, baseline or ())),
        users=user or (),
        models=models,
        rules=json_object("--rules", rules),
    )
    report = {**evaluation.as_dict(), "operations": evaluation.operations}
    if is_stdout:
        print_json(report)
    else:
        print_metrics(report)
        print_slices(report)
        if "attribution" in report:
            print_attribution(report)
        if user:
            print_users(report["users"])
        print_moments(report["morning_and_evening"])
        print_operations(report["operations"])
    if json_file and not is_stdout:
        try:
            json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {json_file}: {error.strerror}") from error
    warn_if_below_popularity(evaluation)


@app.command()
def report(
    run: RunOption,
    output: Annotated[Path, typer.Option(help="The HTML file to write.")],
    models: Annotated[Path | None, typer.Option(help="The models exported from the run.")] = None,
    evaluation: Annotated[
        str, typer.Option(help="Which evaluation of the run, as its files are named.")
    ] = "test-full",
) -> None:
    """Writes an evaluated run as one HTML page that opens without a network."""
    from tfrs_twotower import api

    api.report(run, output, models=models, evaluation=evaluation)
    print(f"report in {output}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated runs, two or more.")],
    evaluation: Annotated[
        str, typer.Option(help="Which evaluation of the runs, as its files are named.")
    ] = "test-full",
    as_json: JsonFlag = False,
) -> None:
    """Compares runs on the same queries: metrics, significance, configs, lists."""
    from tfrs_twotower import api

    comparison = api.compare(runs, evaluation=evaluation)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison.as_dict())


@app.command()
def embeddings(
    run: RunOption,
    data: DataOption,
    output: OutputOption,
    overwrite: OverwriteOption = False,
) -> None:
    """Writes the candidates' embeddings as Parquet and for TensorBoard's projector."""
    from tfrs_twotower import api

    written = api.embeddings(run, data, output, overwrite=overwrite)
    print(f"{written.num_candidates:,} embeddings of {written.embedding_dim} in {output}")


@app.command("user-embeddings")
def user_embeddings(
    models: ModelsOption, output: OutputOption, overwrite: OverwriteOption = False
) -> None:
    """Writes user embeddings computed ahead, where the context mode allows it."""
    from tfrs_twotower import api

    print(f"{api.user_embeddings(models, output, overwrite=overwrite):,} embeddings in {output}")


@app.command()
def explain(
    run: RunOption,
    data: DataOption,
    query: Annotated[str, typer.Option(help="""JSON, for example '{"user_id": "42"}'.""")],
    candidate: Annotated[str, typer.Option(help="The id of the candidate to explain.")],
    as_json: JsonFlag = False,
) -> None:
    """Says why a candidate is recommended: the nearest of the history, what each feature adds."""
    from tfrs_twotower import api

    explanation = api.explain(run, data, json_object("--query", query), candidate)
    if as_json:
        print_json(
            {
                **explanation._asdict(),
                "nearest": [one._asdict() for one in explanation.nearest],
                "contributions": [one._asdict() for one in explanation.contributions],
            }
        )
    else:
        print("\n".join(explanation.in_words()))


@app.command()
def sensitivity(
    run: RunOption,
    data: DataOption,
    context: Annotated[
        str | None,
        typer.Option(help="""JSON of context features, '{"at": 1709712000}'; default: 08:00."""),
    ] = None,
    versus: Annotated[
        str | None, typer.Option(help="Another moment, likewise; default: 20:00 of that day.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    as_json: JsonFlag = False,
) -> None:
    """Compares what is recommended in two moments: how alike the ten best are."""
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


def _named_file(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator:
        raise UsageError(f"--baseline {text}: expected NAME=FILE")
    return name, path
