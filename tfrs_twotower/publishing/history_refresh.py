"""A query tower whose history reads features of candidates, for another corpus.

Such a tower holds the candidates: the vocabulary of the history as an asset, and their features as
variables. Everything else of it stays as it was trained.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tfrs_twotower.features.encoding import Encoder, Vocabulary
from tfrs_twotower.features.history_candidates import by_history_row
from tfrs_twotower.features.raw_inputs import candidate_inputs
from tfrs_twotower.publishing.models_folder import read_model_manifest
from tfrs_twotower.publishing.saved_model_writer import save
from tfrs_twotower.retrieval.retriever import Signature, Tensors
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import WITH_VOCABULARY
from tfrs_twotower.schema.models_layout import CANDIDATE_TOWER, QUERY_TOWER
from tfrs_twotower.schema.prepared import CANDIDATE_ID

ASSETS = "assets"
KEPT_FACTS = ("schema_fingerprint", "towers_digest", "features")


def write_query_tower(
    models: Path, base: int, config: Config, candidates: pa.Table, folder: Path
) -> None:
    """Writes the query tower of a version for other candidates.

    Candidates that are gone keep the features that they had: histories still name them.

    Args:
        models: The models folder.
        base: The version.
        config: Of the version; its history has `candidate_features`.
        candidates: Rows of `candidates`: id and raw features.
        folder: Where to write it; must not exist.
    """
    assert config.history is not None
    assert config.candidate_id is not None
    features = config.history_candidate_features
    with tempfile.TemporaryDirectory() as scratch:
        tower = Path(shutil.copytree(models / QUERY_TOWER / str(base), Path(scratch) / "tower"))
        assets = models / CANDIDATE_TOWER / str(base) / ASSETS
        vocabularies = Path(shutil.copytree(assets, Path(scratch) / "vocabularies"))
        for name, feature in features.items():
            if isinstance(feature, WITH_VOCABULARY):  # TensorFlow saves none without tokens.
                (vocabularies / f"{name}.txt").touch()
        listed = tower / ASSETS / f"{config.history.name}.txt"
        _list_all(listed, candidates.column(CANDIDATE_ID).to_pylist())
        vocabulary = Vocabulary(listed, config.candidate_id.feature.oov_buckets)
        inputs = candidate_inputs(features, candidates)
        rows = vocabulary(inputs[config.candidate_id.name]).numpy()
        encoded = Encoder(features, vocabularies)(inputs)
        found = by_history_row(
            features,
            vocabularies,
            vocabulary.num_rows,
            rows,
            {name: values.numpy() for name, values in encoded.items()},
        )
        loaded = tf.saved_model.load(str(tower))
        for name, variable in loaded.history_candidates.items():
            earlier = variable.numpy()
            gone = np.setdiff1d(np.arange(len(earlier)), rows)
            found[name][gone] = earlier[gone]
            variable.assign(found[name])
        manifest = read_model_manifest(models, QUERY_TOWER, base)
        save(
            loaded,
            {name: _signature(one) for name, one in loaded.signatures.items()},
            folder,
            model_name=QUERY_TOWER,
            facts={
                **{name: manifest[name] for name in KEPT_FACTS},
                **{"origin": "refresh", "base_version": base},
            },
        )


def _list_all(vocabulary: Path, candidate_ids: list[str]) -> None:
    """Adds the ids that a vocabulary lacks, but those that no line can hold."""
    lines = vocabulary.read_bytes().split(b"\n")[:-1]
    known = set(lines)
    for candidate_id in candidate_ids:
        token = candidate_id.encode()
        if token not in known and not (b"\n" in token or b"\r" in token):
            lines.append(token)
    vocabulary.write_bytes(b"".join(line + b"\n" for line in lines))


def _signature(loaded: tf.types.experimental.GenericFunction) -> Signature:
    inputs = dict(loaded.structured_input_signature[1])

    def call(raw: Tensors) -> dict[str, tf.Tensor]:
        return dict(loaded(**{name: raw[name] for name in inputs}))

    return Signature(call, inputs)
