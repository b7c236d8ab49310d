"""Weights of an earlier run for a model on newer data with other vocabularies.

Rows of embedding tables follow their tokens. A token that is new starts from the row it was looked
up in before, its out-of-vocabulary row, where that row was trained (`dropout` of an id), and from a
fresh row elsewhere. All other weights are copied as they are; the optimizer starts afresh.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.features.history_candidates import HistoryCandidates
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.run_folder import (
    CONFIG_FILE,
    MADE_BY,
    VOCABULARIES,
    build_model,
    weights_of,
)
from tfrs_twotower.schema import Config, UsageError, UserError, differences, load_config
from tfrs_twotower.schema.features import WITH_VOCABULARY
from tfrs_twotower.schema.folders import read_manifest

# Keys of features and towers that may change between the runs: they decide which values are read
# and how weights are trained, not what a weight means.
FREE = frozenset({"column", "dropout", "input_dropout", "max_size", "min_count", "separator"})

Floats = npt.NDArray[np.float32]


class VocabularyChanges(NamedTuple):
    """How many tokens of a vocabulary are kept from the earlier run, new, and dropped."""

    kept: int
    new: int
    dropped: int


class EarlierRun(NamedTuple):
    """A finished run to start from; `digest` is that of its weights and vocabularies."""

    folder: Path
    weights: Path
    digest: str


def earlier_run(folder: str | Path, config: Config) -> EarlierRun:
    """Checks that a training can start from a run.

    Args:
        folder: What `twotower train` wrote.
        config: Of the training that is to start.

    Raises:
        UserError: If there is no such run.
        UsageError: If the config describes another model than the run's.
    """
    folder = Path(folder)
    read_manifest(folder, kind="run", made_by=MADE_BY)
    if not (folder / VOCABULARIES).is_dir():
        raise UserError(f"{folder} was trained by an earlier version: it keeps no vocabularies")
    earlier_config = load_config(folder / CONFIG_FILE)
    found = differences(_model_of(earlier_config), _model_of(config))
    if found:
        shown = "; ".join(f"{path}: {old!r} there, {new!r} here" for path, old, new in found[:4])
        raise UsageError(
            f"{folder}, the run to start from, has another model: {shown}\n"
            "Use its features and towers, or train without a warm start."
        )
    weights = weights_of(folder, earlier_config)
    digest = hashlib.sha256()
    for path in [
        *sorted(weights.parent.glob(f"{weights.name}.*")),
        *sorted((folder / VOCABULARIES).iterdir()),
    ]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return EarlierRun(folder, weights, digest.hexdigest())


def carry_over(
    run: EarlierRun, model: keras.Model, data: PreparedData
) -> dict[str, VocabularyChanges]:
    """Gives a fresh model the weights of an earlier run.

    Variables correspond by their path in the model, such as `query_tower._output.kernel`, not by
    the order in which they were created.

    Args:
        run: See `earlier_run`.
        model: What `build_model` made for `data`.
        data: The newer data.

    Returns:
        The changes of each vocabulary, by feature name.

    Raises:
        UserError: If the weights are not those of this model.
    """
    earlier_data = data.with_vocabularies(run.folder / VOCABULARIES)
    earlier = build_model(earlier_data)
    status = tf.train.Checkpoint(model=earlier).read(str(run.weights))
    try:
        status.expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{run.folder} holds the weights of another model") from error
    old_variables, variables = _by_path(earlier), _by_path(model)
    if lone := sorted(old_variables.keys() ^ variables.keys()):
        raise UserError(
            f"{run.folder} holds the weights of another model: {lone[0]} is in one of the two only"
        )
    changes = {}
    features_of_tables = _features_of_tables(model, data.config)
    for path, new in variables.items():
        old = old_variables[path]
        name = features_of_tables.get(new.ref())
        if name is not None:
            oov_buckets = _with_vocabulary(data.config)[name].oov_buckets
            values, changes[name] = reordered_rows(
                old.numpy(),
                new.numpy(),
                _tokens(earlier_data.vocabulary_dir / f"{name}.txt"),
                _tokens(data.vocabulary_dir / f"{name}.txt"),
                oov_buckets,
            )
            new.assign(values)
        elif old.shape == new.shape:
            new.assign(old.value())
        else:
            raise UserError(
                f"{run.folder}: {path} has shape {old.shape} there, {new.shape} here; only "
                "embedding layers that are named like their feature may grow"
            )
    return changes


def reordered_rows(
    old: Floats,
    fresh: Floats,
    old_tokens: list[bytes],
    new_tokens: list[bytes],
    oov_buckets: int,
) -> tuple[Floats, VocabularyChanges]:
    """Rows of a table in the order of another vocabulary.

    Args:
        old: `[1 + oov_buckets + len(old_tokens), embedding_dim]`.
        fresh: `[1 + oov_buckets + len(new_tokens), embedding_dim]`, for tokens that are new.
        old_tokens: In the order of rows.
        new_tokens: In the order of rows.
        oov_buckets: Of both tables.

    Returns:
        The table for `new_tokens`, and how the vocabulary changed.
    """
    first = FIRST_OOV_ROW + oov_buckets
    row_of: Mapping[bytes, int] = {token: row for row, token in enumerate(old_tokens, first)}
    rows = np.array([row_of.get(token, -1) for token in new_tokens], np.int64)
    is_new = rows < 0
    buckets = tf.strings.to_hash_bucket_fast(tf.constant(new_tokens, tf.string), oov_buckets)
    rows = np.where(is_new, FIRST_OOV_ROW + buckets.numpy(), rows)
    table = np.concatenate([old[:first], old[rows]])
    # A row that is all zeros never had a gradient: nothing was learned there.
    is_untrained = is_new & ~old[rows].any(axis=1)
    table[first:][is_untrained] = fresh[first:][is_untrained]
    num_new = int(is_new.sum())
    kept = len(new_tokens) - num_new
    return table, VocabularyChanges(kept, num_new, len(old_tokens) - kept)


def _model_of(config: Config) -> dict[str, Any]:
    """The part of a config that decides what the weights mean.

    The order of features belongs to it: it is that of the columns that a tower's first layer reads.
    """
    dumped = config.model_dump(mode="json", include={"features", "towers"})
    sides = dumped["features"]
    return {
        "features": {
            side: {name: _without_free_keys(feature) for name, feature in features.items()}
            for side, features in sides.items()
        },
        "order_of_features": {side: list(features) for side, features in sides.items()},
        "towers": {
            key: _without_free_keys(value) if isinstance(value, dict) else value
            for key, value in dumped["towers"].items()
        },
        "learns_temperature": config.loss.learns_temperature,
    }


def _without_free_keys(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in FREE}


def _with_vocabulary(config: Config) -> dict[str, Any]:
    features = {**config.query_features, **config.candidate_features}
    return {name: f for name, f in features.items() if isinstance(f, WITH_VOCABULARY)}


def _by_path(model: keras.Model) -> dict[str, tf.Variable]:
    """The weights of a model: its variables without those of its optimizer and the candidates."""
    own = {variable.ref() for variable in model.variables}
    for layer in model.submodules:
        if isinstance(layer, HistoryCandidates):
            own -= {variable.ref() for variable in layer.encoded.values()}
    return {path: one for path, one in model.get_weight_paths().items() if one.ref() in own}


def _features_of_tables(model: keras.Model, config: Config) -> dict[Any, str]:
    """The feature of each embedding table whose rows are tokens, by its variable."""
    named = _with_vocabulary(config)
    return {
        layer.embeddings.ref(): layer.name
        for layer in model.submodules
        if isinstance(layer, keras.layers.Embedding) and layer.name in named
    }


def _tokens(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]
