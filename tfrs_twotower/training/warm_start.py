"""Weights of an earlier run for a model on newer data, whose vocabularies have moved.

Rows of embedding tables follow their tokens. A token that is new begins where the earlier model
had it, in its out-of-vocabulary row, where that row was trained (`dropout` of an id), and anew
elsewhere. All other weights are carried over as they are; the optimizer begins anew.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.run_folder import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    MADE_BY,
    VOCABULARIES,
    build_model,
)
from tfrs_twotower.schema import Config, UsageError, UserError, differences, load_config
from tfrs_twotower.schema.features import WITH_VOCABULARY
from tfrs_twotower.schema.folders import read_manifest

# What may change from run to run: it decides values and rows, not what a weight means.
FREE = ("column", "dropout", "max_size", "min_count", "separator")

Floats = npt.NDArray[np.float32]


class Moved(NamedTuple):
    """Tokens of one vocabulary: kept from the earlier run, new, and dropped."""

    kept: int
    new: int
    dropped: int


class EarlierRun(NamedTuple):
    """A finished run to begin from."""

    folder: Path
    digest: str
    """Of its weights and vocabularies."""


def earlier_run(folder: str | Path, config: Config) -> EarlierRun:
    """Checks that a run can be begun from.

    Args:
        folder: What `twotower train` wrote.
        config: Of the training that is to begin.

    Raises:
        UserError: If there is no such run.
        UsageError: If its model is another one than the config's.
    """
    folder = Path(folder)
    read_manifest(folder, kind="run", made_by=MADE_BY)
    if not (folder / VOCABULARIES).is_dir():
        raise UserError(f"{folder} was trained by an earlier version: it keeps no vocabularies")
    found = differences(_model_of(load_config(folder / CONFIG_FILE)), _model_of(config))
    if found:
        shown = "; ".join(f"{path}: {old!r} there, {new!r} here" for path, old, new in found[:4])
        raise UsageError(
            f"{folder}, the run to start from, has another model: {shown}\n"
            "Use its features and towers, or train without a warm start."
        )
    digest = hashlib.sha256()
    for path in [
        *sorted(folder.glob(f"{BEST_WEIGHTS}.*")),
        *sorted((folder / VOCABULARIES).iterdir()),
    ]:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return EarlierRun(folder, digest.hexdigest())


def carry_over(run: EarlierRun, model: keras.Model, data: PreparedData) -> dict[str, Moved]:
    """Gives a fresh model the weights of an earlier run.

    Args:
        run: See `earlier_run`.
        model: What `build_model` made for `data`.
        data: The newer data.

    Returns:
        What became of the tokens of each vocabulary, by feature name.

    Raises:
        UserError: If the weights are not those of this model.
    """
    earlier_data = data.with_vocabularies(run.folder / VOCABULARIES)
    earlier = build_model(earlier_data)
    status = tf.train.Checkpoint(model=earlier).read(str(run.folder / BEST_WEIGHTS))
    try:
        status.expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{run.folder} holds the weights of another model") from error
    moved = {}
    tables = _tables(model, data.config)
    for old, new in zip(earlier.variables, model.variables, strict=True):
        name = tables.get(new.ref())
        if name is not None:
            oov_buckets = _with_vocabulary(data.config)[name].oov_buckets
            values, moved[name] = moved_rows(
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
                f"{run.folder}: {new.name} has shape {old.shape} there, {new.shape} here; only "
                "embedding layers that are named like their feature may grow"
            )
    return moved


def moved_rows(
    old: Floats,
    fresh: Floats,
    old_tokens: list[bytes],
    new_tokens: list[bytes],
    oov_buckets: int,
) -> tuple[Floats, Moved]:
    """Rows of a table in the order of another vocabulary.

    Args:
        old: `[1 + oov_buckets + len(old_tokens), embedding_dim]`.
        fresh: `[1 + oov_buckets + len(new_tokens), embedding_dim]`, for tokens without a past.
        old_tokens: In the order of rows.
        new_tokens: In the order of rows.
        oov_buckets: Of both tables.

    Returns:
        The table for `new_tokens`, and what became of the tokens.
    """
    first = FIRST_OOV_ROW + oov_buckets
    row_of: Mapping[bytes, int] = {token: row for row, token in enumerate(old_tokens, first)}
    rows = np.array([row_of.get(token, -1) for token in new_tokens], np.int64)
    is_new = rows < 0
    buckets = tf.strings.to_hash_bucket_fast(tf.constant(new_tokens, tf.string), oov_buckets)
    rows = np.where(is_new, FIRST_OOV_ROW + buckets.numpy(), rows)
    moved = np.concatenate([old[:first], old[rows]])
    # A row that never had a gradient is zero, and says nothing.
    says_nothing = is_new & ~old[rows].any(axis=1)
    moved[first:][says_nothing] = fresh[first:][says_nothing]
    num_new = int(is_new.sum())
    kept = len(new_tokens) - num_new
    return moved, Moved(kept, num_new, len(old_tokens) - kept)


def _model_of(config: Config) -> dict[str, Any]:
    """The part of a config that the weights depend on."""
    dumped = config.model_dump(mode="json", include={"features", "towers"})
    for features in dumped["features"].values():
        for feature in features.values():
            for key in FREE:
                feature.pop(key, None)
    for side in ("query", "candidate"):
        dumped["towers"][side].pop("dropout")
    return dict(dumped, learns_temperature=config.loss.learns_temperature)


def _with_vocabulary(config: Config) -> dict[str, Any]:
    features = {**config.query_features, **config.candidate_features}
    return {name: f for name, f in features.items() if isinstance(f, WITH_VOCABULARY)}


def _tables(model: keras.Model, config: Config) -> dict[Any, str]:
    """The feature of each embedding table whose rows are tokens, by its variable."""
    named = _with_vocabulary(config)
    return {
        layer.embeddings.ref(): layer.name
        for layer in model.submodules
        if isinstance(layer, keras.layers.Embedding) and layer.name in named
    }


def _tokens(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]
