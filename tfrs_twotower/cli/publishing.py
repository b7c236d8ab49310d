"""Commands that publish models, and manage what is published."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfrs_twotower.cli.options import (
    CaFileOption,
    DataOption,
    JsonFlag,
    ModelsOption,
    OutputOption,
    RunOption,
    TokenFileOption,
    examples,
)
from tfrs_twotower.cli.output import console, print_json, print_table
from tfrs_twotower.schema import UsageError, load_config
from tfrs_twotower.schema.models_layout import preferred_model

if TYPE_CHECKING:
    from tfrs_twotower.publishing.export import Export
    from tfrs_twotower.publishing.versions import Rollout

app = typer.Typer()


@app.command(
    epilog=examples(
        "twotower export --run demo/run --data demo/prepared --output demo/models",
        "twotower export ... --target_recall 0.95 --at 100",
    )
)
def export(
    run: RunOption,
    data: DataOption,
    output: OutputOption,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A config whose `index`, `rules` and `export` replace those of the run; the rest "
            "must be as it was trained."
        ),
    ] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(
            "--target_recall",
            help="Share (0 to 1) of the exact best candidates that the index must find. The export "
            "fails if no setting does. Default: `index.target_recall` of the config.",
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(help="How many best candidates the target is for. Default: `index.at`."),
    ] = None,
    config_base_path: Annotated[
        str | None,
        typer.Option(
            "--config_base_path",
            help="Where the server will see the folder; default: where it is now.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish the next version of every SavedModel, and the server's configs."""
    from tfrs_twotower import api

    api.quiet_native_log()
    exported = api.export(
        run,
        data,
        output,
        config=None if config is None else load_config(config),
        target_recall=target_recall,
        at=at,
        config_base_path=config_base_path,
    )
    print_export(exported, as_json)


@app.command(epilog=examples("twotower refresh --models demo/models --candidates candidates.csv"))
def refresh(
    models: ModelsOption,
    candidates: Annotated[
        list[Path], typer.Option(help="A file of the new corpus, all of it; repeat for more.")
    ],
    version: Annotated[
        int | None,
        typer.Option(
            help="The version whose towers to keep. Default: the stable one, or the newest."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish a version with new, changed and removed candidates, without training."""
    from tfrs_twotower import api

    api.quiet_native_log()
    made = api.refresh(models, candidates, version)
    counts = {
        "candidates": made.corpus_size,
        "new": made.num_new,
        "changed": made.num_changed,
        "removed": made.num_removed,
    }
    manifest = made.manifests[preferred_model(made.manifests)]
    if as_json:
        numbers = {"version": made.version, "base_version": made.base_version, **counts}
        print_json({**numbers, "recall": manifest.get("recall")})
        return
    print_table(
        f"version {made.version}, refreshed from {made.base_version}",
        ["", "count"],
        list(counts.items()),
    )
    _print_index(manifest)


@app.command(epilog=examples("twotower versions --models demo/models"))
def versions(models: ModelsOption, as_json: JsonFlag = False) -> None:
    """List the versions of a models folder and their labels."""
    from tfrs_twotower.publishing.versions import list_versions

    found = list_versions(models)
    if as_json:
        print_json([dataclasses.asdict(version) for version in found])
        return
    print_table(
        str(models),
        ["version", "labels", "made by", "candidates", "recall of the index", "memory, MB"],
        [
            [
                str(version.number),
                ", ".join(version.labels),
                version.origin,
                version.corpus_size,
                "" if version.recall is None else version.recall,
                round(version.memory_bytes / 1e6),
            ]
            for version in found
        ],
        left=3,
    )


@app.command(epilog=examples("twotower signatures --models demo/models --model retrieval"))
def signatures(
    models: ModelsOption,
    model: Annotated[
        str | None, typer.Option(help="Only this model, for example retrieval. Default: all.")
    ] = None,
    version: Annotated[int | None, typer.Option(help="Default: the newest.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the signatures of the models as Markdown: inputs, outputs, examples."""
    from tfrs_twotower.publishing import signature_reference

    found = signature_reference.signatures(models, model, version)
    if as_json:
        print_json([dataclasses.asdict(signature) for signature in found])
    else:
        print(signature_reference.as_markdown(found))


WaitForOption = Annotated[
    list[str] | None,
    typer.Option(
        "--wait_for",
        metavar="HOST:PORT",
        help="gRPC port of a running server: the label moves once it has loaded the version. "
        "Repeat for more servers.",
    ),
]
WaitSecondsOption = Annotated[
    float | None,
    typer.Option(
        "--wait_seconds",
        min=0.0,
        help="With --wait_for the longest wait for a step (default: 600); without it, how long to "
        "wait before the label moves, and again before what has none is unloaded.",
    ),
]


@app.command(
    epilog=examples(
        "twotower promote --models demo/models --version 2 --label canary",
        "twotower promote --models demo/models --wait_for 10.0.0.1:8500 --wait_for 10.0.0.2:8500",
    )
)
def promote(
    models: ModelsOption,
    version: Annotated[int | None, typer.Option(help="Default: the newest.")] = None,
    label: Annotated[str, typer.Option(help="stable or canary.")] = "stable",
    force: Annotated[
        bool, typer.Option("--force", help="Label the version even if the gate finds a no-go.")
    ] = False,
    wait_for: WaitForOption = None,
    wait_seconds: WaitSecondsOption = None,
    ca_file: CaFileOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Label a version that passes the release gate, which compares it with the stable one."""
    from tfrs_twotower import api

    rollout = _rollout(wait_for, wait_seconds, ca_file, token_file)
    gate = api.promote(models, version, label=label, force=force, rollout=rollout)
    if as_json:
        print_json({**dataclasses.asdict(gate), "label": label, "is_go": gate.is_go})
        return
    print_table(
        f"version {gate.version} is {label} now",
        ["", f"version {gate.served_version}" if gate.served_version else "", "new", ""],
        [[check.name, check.served, check.new, check.reason] for check in gate.checks],
    )


@app.command(epilog=examples("twotower rollback --models demo/models"))
def rollback(
    models: ModelsOption,
    wait_for: WaitForOption = None,
    wait_seconds: WaitSecondsOption = None,
    ca_file: CaFileOption = None,
    token_file: TokenFileOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the previous stable version the stable one again."""
    from tfrs_twotower.publishing import versions

    rollout = _rollout(wait_for, wait_seconds, ca_file, token_file)
    version = versions.rollback(models, rollout)
    if as_json:
        print_json({"version": version, "label": "stable"})
    else:
        print(f"version {version} is stable again")


@app.command(
    epilog=examples(
        "twotower doctor demo/models",
        "twotower doctor demo/models --target tensorflow/serving:2.20.0",
    )
)
def doctor(
    export: Annotated[
        Path | None,
        typer.Argument(
            help="A models folder, or a version of a model in it; without: this machine's packages."
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="The server: embedded, or an image such as tensorflow/serving:2.20.0."),
    ] = "embedded",
    as_json: JsonFlag = False,
) -> None:
    """Check an export before a server loads it; exit code 1 where something would fail."""
    from tfrs_twotower.publishing.doctor import examine

    findings = examine(export, target)
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for found in findings:
            print(f"{found.level:8} {found.where}: {found.what}")
            if found.cure:
                print(f"{'':8} -> {found.cure}")
    if any(found.level == "error" for found in findings):
        raise typer.Exit(1)


def _rollout(
    targets: Sequence[str] | None,
    seconds: float | None,
    ca_file: Path | None,
    token_file: Path | None,
) -> "Rollout | None":
    """What waits for the servers; None: the embedded server, or none that runs."""
    from serving.access import read_access
    from serving.rollout import LONGEST_S, Pause, Servers

    if targets:
        longest_s = LONGEST_S if seconds is None else seconds
        access = read_access(ca_file, token_file)
        return Servers(targets, longest_s, console(stderr=True).print, access)
    if ca_file or token_file:
        raise UsageError("--ca_file and --token_file are for the servers of --wait_for: name one")
    return Pause(seconds, console(stderr=True).print) if seconds else None


def print_export(exported: "Export", as_json: bool) -> None:
    """Prints what was published."""
    manifest = exported.manifests[preferred_model(exported.manifests)]
    if as_json:
        print_json(
            {
                "models": str(exported.folder),
                "version": exported.version,
                "index": manifest["index"],
                "recall": manifest.get("recall"),
            }
        )
    else:
        print(f"version {exported.version} published in {exported.folder}")
        _print_index(manifest)


def _print_index(manifest: dict[str, Any]) -> None:
    """The recall, and where the index was tuned, the settings that no cheaper one beats."""
    recall = manifest.get("recall")
    if recall is not None:
        tuned = recall["num_tuning_queries"]
        print(
            f"the index finds {recall['mean']:.4f} of the exact {recall['at']} best, at least "
            f"{recall['at_least']:.4f} with 95 % confidence: measured on {recall['num_queries']} "
            f"held-out queries, {f'tuned on {tuned} others' if tuned else 'not tuned'}"
        )
    tuning = manifest.get("tuning")
    if tuning is None:
        return
    names = ("num_leaves", "dimensions_per_block", "leaves_to_search", "reorder")
    rows, best = [], -1.0
    for trial in tuning["trials"]:  # In the order of cost.
        if trial["at_least"] > best:
            best = trial["at_least"]
            mark = "chosen" if trial == tuning["chosen"] else ""
            rows.append([*(str(trial[name]) for name in names), best, trial["latency_ms"], mark])
    print_table(
        f"settings on the front of {len(tuning['trials'])} tried",
        ["leaves", "block", "searched", "rescored", "recall at least", "ms", ""],
        rows,
    )
    index = manifest["index"]
    if any(index[name] != tuning["chosen"][name] for name in names):
        print(
            f"served with {index['leaves_to_search']} leaves searched and {index['reorder']} "
            "candidates rescored: what was chosen misses the target on queries it was not tuned on"
        )
