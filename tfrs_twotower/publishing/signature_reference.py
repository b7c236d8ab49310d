"""How the models of an export are called: a reference, read from the SavedModels themselves.

Names, types, shapes and defaults are those of the graphs that were written; what a feature means is
what the config that came with them describes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tfrs_twotower.features.encoding import missing_value
from tfrs_twotower.publishing.models_folder import latest_version, models_of, read_config
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.features import (
    Feature,
    History,
    MultiCategorical,
    Timestamp,
)
from tfrs_twotower.schema.models_layout import (
    CANDIDATE_TOWER,
    QUERY_TOWER,
    RETRIEVAL_MODELS,
    SIMILARITY,
)

INTERNAL = "__saved_model_"  # Begins the names of signatures that TensorFlow adds.

KINDS = {
    "id": "an id",
    "categorical": "a token",
    "multi_categorical": "tokens",
    "text": "text",
    "number": "a number",
    "boolean": "1 true, 0 false",
    "vector": "a vector",
    "timestamp": "Unix seconds, UTC",
    "history": "candidate ids, oldest first",
}
RULES = {
    "k": "how many candidates, 1 to {max_k}",
    "exclude_ids": 'candidates never to answer with; "" and unknown ids are ignored',
    "allow_ids": 'the only candidates to answer with; all "": no restriction',
    "half_life_s": "seconds in which a candidate's distance to the lowest score halves; 0: never",
    "now_s": "the moment, for `half_life_s` and availability, Unix seconds; 0: not known",
    "max_per_category": "most candidates of one category; 0: no limit",
    "mmr_lambda": "weight of the score against variety, 0 to 1; 1: the score alone",
    "min_score": "candidates that score less are left out",
    "candidate_ids": "the candidates to score",
    "user_embedding": "what the signature `user` of `query_tower` gives",
    "query_id": "whose stored vector; unknown: every score is the float32 minimum",
    "query_embedding": "what `query_tower` gives, of any length",
}
FILTER_PREFIX = "filter_"
FILTERS = {
    "_any": 'candidates that have one of these values of {attribute}; all "": no restriction',
    "_none": "candidates that have none of these values of {attribute}",
    "_min": "candidates whose {attribute} is at least this",
    "_max": "candidates whose {attribute} is at most this",
}
ANSWERS = {
    "candidate_ids": 'best first; "" from `valid_count` on',
    "valid_count": "how many of the answers count",
    "pool_size": "how many eligible candidates were ranked for the answer",
    "query_embedding": "of length 1, or zero where nothing is known",
    "candidate_embedding": "of length 1, or zero where nothing is known",
    "user_embedding": "to be kept, and joined with the context later",
}
OF_CANDIDATES = "in the order of the candidates; the float32 minimum for unknown ones"
SCORES = {
    "score": OF_CANDIDATES,
    "score_embedding": OF_CANDIDATES,
    "recommend": "of each candidate; the float32 minimum from `valid_count` on",
}

# With `client = RetrievalClient(target, model=model)`, by model and signature.
PYTHON = {
    **{(model, "recommend"): "client.recommend({query}, k=10)" for model in RETRIEVAL_MODELS},
    **{(model, "score"): 'client.score({query}, ["42"])' for model in RETRIEVAL_MODELS},
    (SIMILARITY, "score"): 'client.score({{"query_id": "42"}}, ["42"])',
    (QUERY_TOWER, "serving_default"): "client.embed({query})",
}
EXAMPLE_SECONDS = 1_700_000_000


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Attributes:
        name: What requests call it.
        dtype: TensorFlow's name of the type.
        shape: For example "[batch, n]".
        meaning: What it holds.
        default: The row that stands in for a left-out input; None: it must be given.
    """

    name: str
    dtype: str
    shape: str
    meaning: str
    default: Any = None

    @property
    def is_optional(self) -> bool:
        """Whether a request may leave it out; over TF Serving's REST none may."""
        return self.default is not None


@dataclass(frozen=True)
class Signature:
    """One way to ask a model.

    Attributes:
        model: The model's name.
        version: Its version.
        name: The signature's name.
        inputs: Those that must be given first.
        outputs: By name.
        rest_path: Where REST requests are posted to.
        rest_body: A request of one row; every input is there, as TF Serving's REST wants.
        python: The same with a `RetrievalClient` of the model; "" where it has no method for it.
    """

    model: str
    version: int
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    rest_path: str
    rest_body: dict[str, Any]
    python: str


def signatures(
    models: str | Path, model: str | None = None, version: int | None = None
) -> list[Signature]:
    """Reads the signatures of the models of a version.

    Args:
        models: The models folder.
        model: Only this one; None: all.
        version: Default: the newest.

    Raises:
        UserError: If there is no such version or model, or it is damaged.
    """
    models = Path(models)
    version = latest_version(models) if version is None else version
    config = read_config(models, version)
    names = models_of(models, version)
    if model is not None and model not in names:
        raise UserError(f"{models} has no model {model}: it has {', '.join(names)}")
    return [
        signature
        for name in ([model] if model else names)
        for signature in _read(models / name / str(version), name, version, config)
    ]


def as_markdown(found: Iterable[Signature]) -> str:
    """The reference as a page."""
    return "\n".join(line for signature in found for line in _page(signature))


def _read(folder: Path, model: str, version: int, config: Config) -> Iterator[Signature]:
    path = folder / "saved_model.pb"
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path} is missing or damaged: `twotower doctor` has details") from error
    for name, proto in sorted(saved_model.meta_graphs[0].signature_def.items()):
        if not name.startswith(INTERNAL):
            yield _signature(model, version, name, proto, config)


def _signature(model: str, version: int, name: str, proto: Any, config: Config) -> Signature:
    is_of_candidates = model == CANDIDATE_TOWER
    features = config.candidate_features if is_of_candidates else config.query_features
    inputs = [
        _tensor(key, info, _meaning(key, features, config), _default(proto, key))
        for key, info in sorted(proto.inputs.items())
    ]
    inputs.sort(key=lambda tensor: tensor.is_optional)
    row = {
        tensor.name: tensor.default
        if tensor.is_optional
        else _example(features.get(tensor.name), proto.inputs[tensor.name])
        for tensor in inputs
    }
    query = {name: value for name, value in row.items() if name in features}
    return Signature(
        model,
        version,
        name,
        tuple(inputs),
        tuple(
            _tensor(key, info, _answer(key, name)) for key, info in sorted(proto.outputs.items())
        ),
        f"/v1/models/{model}:predict",
        {"signature_name": name, "inputs": {key: [value] for key, value in row.items()}},
        PYTHON.get((model, name), "").format(query=query),
    )


def _tensor(name: str, info: Any, meaning: str, default: Any = None) -> Tensor:
    sizes = [dim.size for dim in info.tensor_shape.dim]
    shown = ["batch", *("n" if size < 0 else str(size) for size in sizes[1:])]
    shape = "any" if info.tensor_shape.unknown_rank else f"[{', '.join(shown)}]"
    return Tensor(name, tf.dtypes.as_dtype(info.dtype).name, shape, meaning, default)


def _default(proto: Any, name: str) -> Any:
    """The default row of an optional input; None where there is none."""
    if name not in proto.defaults:
        return None
    values = tf.make_ndarray(proto.defaults[name])[0]
    if values.dtype == object:
        return [value.decode() for value in values]
    return values.item()


def _meaning(name: str, features: Mapping[str, Feature], config: Config) -> str:
    if name in features:
        feature = features[name]
        unknown = "" if isinstance(feature, MultiCategorical | History) else _unknown(feature)
        return KINDS[feature.kind] + unknown
    for suffix, meaning in FILTERS.items():
        if name.startswith(FILTER_PREFIX) and name.endswith(suffix):
            attribute = name.removeprefix(FILTER_PREFIX).removesuffix(suffix)
            return meaning.format(attribute=attribute)
    return RULES.get(name, "").format(max_k=config.export.max_k)


def _unknown(feature: Feature) -> str:
    value = missing_value(feature)
    return f"; {'NaN' if isinstance(value, float) else json.dumps(value)}: not known"


def _answer(name: str, signature: str) -> str:
    if name == "scores":
        return SCORES.get(signature, SCORES["recommend"])
    return ANSWERS.get(name, "")


def _example(feature: Feature | None, info: Any) -> Any:
    """A value for one row."""
    if isinstance(feature, Timestamp):
        return EXAMPLE_SECONDS
    value = {tf.string: "42", tf.float32: 0.5}.get(tf.dtypes.as_dtype(info.dtype), 1)
    sizes = [dim.size for dim in info.tensor_shape.dim[1:]]
    return [value] * max(sizes[0], 1) if sizes else value


def _page(signature: Signature) -> Iterator[str]:
    yield f"## {signature.model} version {signature.version}, `{signature.name}`\n"
    yield "| input | type | left out | meaning |\n| --- | --- | --- | --- |"
    for tensor in signature.inputs:
        default = f"`{json.dumps(tensor.default)}`" if tensor.is_optional else "must be given"
        kind = f"{tensor.dtype} {tensor.shape}"
        yield f"| `{tensor.name}` | {kind} | {default} | {tensor.meaning} |"
    yield "\n| output | type | meaning |\n| --- | --- | --- |"
    for tensor in signature.outputs:
        yield f"| `{tensor.name}` | {tensor.dtype} {tensor.shape} | {tensor.meaning} |"
    yield f"\n```\nPOST {signature.rest_path}\n{json.dumps(signature.rest_body)}\n```"
    if signature.python:
        yield f"\n```python\n{signature.python}\n```"
    yield ""
