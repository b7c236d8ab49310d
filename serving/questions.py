"""What the clients ask and how they read the answer, without a wire.

Each question is a generator: it yields the calls that it takes, one after the other, is sent their
responses (or thrown their errors), and returns the answer. `serving.client` drives them over gRPC,
by threads or by asyncio.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from serving import wire
from serving.errors import InvalidRequestError, ModelNotFoundError, SignatureNotFoundError
from serving.queries import Query, as_rows, build_inputs, per_row
from serving.tensors import Array, Signature, TensorSpec, to_array, write
from tfrs_twotower.schema.models_layout import RETRIEVAL_MODELS
from tfrs_twotower.schema.results import Tabular

if TYPE_CHECKING:
    import pandas as pd


class Method(NamedTuple):
    """A method of TF Serving's PredictionService."""

    path: str
    response: Any  # Class of the message.


_SERVICE = "/tensorflow.serving.PredictionService"
PREDICT = Method(f"{_SERVICE}/Predict", wire.PredictResponse)
GET_METADATA = Method(f"{_SERVICE}/GetModelMetadata", wire.GetModelMetadataResponse)
METHODS = (PREDICT, GET_METADATA)

# What a model that keeps user and context apart takes in place of the user's features.
_USER_EMBEDDING = "user_embedding"
_QUERY_EMBEDDING = "query_embedding"

T = TypeVar("T")


class Call(NamedTuple):
    """A method of TF Serving's PredictionService, and what to call it with."""

    method: Method
    request: Any


Question = Generator[Call, Any, T]


@dataclass(frozen=True, repr=False)
class Recommendations(Tabular):
    """The answer to one query, best first."""

    candidate_ids: list[str]  # At most k, fewer where fewer are eligible.
    scores: list[float]  # Cosines, one a candidate.
    model_version: int
    num_excluded: int = 0  # Candidates that the request told to leave out.
    # Eligible candidates that were ranked for it; None: of a model that does not tell.
    pool_size: int | None = None

    @property
    def title(self) -> str:
        """How many candidates, how many were left out, of which version."""
        return (
            f"{len(self.candidate_ids)} candidates, {self.num_excluded:,} excluded, "
            f"model version {self.model_version}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row a candidate: `candidate_id` and `score`, by rank from 1."""
        import pandas as pd

        ranks = pd.RangeIndex(1, len(self.candidate_ids) + 1, name="rank")
        columns = {"candidate_id": self.candidate_ids, "score": self.scores}
        return pd.DataFrame(columns, index=ranks)


class Questions:
    """The questions to the models of one server; keeps what it has learned of them."""

    def __init__(
        self, model: str | None, query_tower: str, version: int | None, version_label: str | None
    ) -> None:
        """Knows nothing of the server yet; see `RetrievalClient`."""
        self.models = RETRIEVAL_MODELS if model is None else (model,)
        self._query_tower, self._version, self._version_label = query_tower, version, version_label
        self._asked: str | None = None
        self._signatures: dict[str, dict[str, Signature]] = {}

    def recommend(
        self, queries: Query | Sequence[Query], optional: Mapping[str, Any]
    ) -> Question[list[Recommendations]]:
        """See `RetrievalClient.recommend`; `optional` are all inputs beside the queries."""
        rows = as_rows(queries)
        given = {
            name: value
            for name, value in optional.items()
            if name not in ("exclude_ids", "allow_ids") or len(value)
        }
        key = "recommend_joined" if _USER_EMBEDDING in rows[0] else "recommend"
        outputs, version = yield from self._predict(
            (yield from self._asked_model()), key, rows, given
        )
        excluded = (
            per_row("exclude_ids", given["exclude_ids"], 1, len(rows))
            if "exclude_ids" in given
            else [row.get("exclude_ids") or () for row in rows]
        )
        return [
            Recommendations(
                [candidate_id.decode() for candidate_id in ids[:count]],
                scores[:count].tolist(),
                version,
                len(set(of_row) - {""}),
                pool_size,
            )
            for ids, scores, count, of_row, pool_size in zip(
                outputs["candidate_ids"],
                outputs["scores"],
                outputs["valid_count"],
                excluded,
                # Models exported by earlier releases do not have it.
                outputs["pool_size"].tolist() if "pool_size" in outputs else [None] * len(rows),
                strict=True,
            )
        ]

    def score(
        self,
        queries: Query | Sequence[Query],
        candidate_ids: Sequence[str] | Sequence[Sequence[str]],
    ) -> Question[list[list[float]]]:
        """See `RetrievalClient.score`."""
        rows = as_rows(queries)
        extra = {"candidate_ids": candidate_ids}
        model = yield from self._asked_model()
        key = "score_embedding" if _QUERY_EMBEDDING in rows[0] else "score"
        outputs, _ = yield from self._predict(model, key, rows, extra)
        counts = [len(ids) for ids in per_row("candidate_ids", candidate_ids, 1, len(rows))]
        return [row[:count].tolist() for row, count in zip(outputs["scores"], counts, strict=True)]

    def embed(self, queries: Query | Sequence[Query]) -> Question[Array]:
        """See `RetrievalClient.embed`."""
        rows = as_rows(queries)
        outputs, _ = yield from self._predict(self._query_tower, "serving_default", rows, {})
        return outputs["query_embedding"]

    def query_features(self) -> Question[dict[str, TensorSpec]]:
        """See `RetrievalClient.query_features`."""
        model = yield from self._asked_model()
        signature = yield from self._signature(model, "recommend")
        return {
            name: spec for name, spec in signature.inputs.items() if name not in signature.defaults
        }

    def _predict(
        self, model: str, key: str, rows: Sequence[Query], extra: Mapping[str, Any]
    ) -> Question[tuple[dict[str, Array], int]]:
        signature = yield from self._signature(model, key)
        request = wire.PredictRequest(model_spec=self._spec(model))
        request.model_spec.signature_name = key
        try:
            for name, array in build_inputs(signature, rows, extra).items():
                write(array, request.inputs[name])
            response = yield Call(PREDICT, request)
        except (InvalidRequestError, ModelNotFoundError, SignatureNotFoundError):
            # Perhaps a newer version, with other inputs or of another model: look again next time.
            self._signatures.pop(model, None)
            self._asked = None
            raise
        outputs = {
            name: to_array(proto, max_elements=proto.ByteSize())
            for name, proto in response.outputs.items()
        }
        return outputs, response.model_spec.version.value

    def _asked_model(self) -> Question[str]:
        """The first of the models that the server has, found by the first question."""
        if self._asked is None:
            self._asked = yield from self.first_served()
        return self._asked

    def first_served(self) -> Question[str]:
        """The first of the models that the server has, asked for anew."""
        refused = []
        for model in self.models:
            try:
                self._signatures[model] = yield from self._fetch_signatures(model)
            except ModelNotFoundError as error:
                refused.append(error)
            else:
                return model
        raise refused[0]

    def _signature(self, model: str, key: str) -> Question[Signature]:
        signatures = self._signatures.get(model)
        if signatures is None:
            signatures = self._signatures[model] = yield from self._fetch_signatures(model)
        if key not in signatures:
            raise InvalidRequestError(
                f"model {model} has no signature {key}, it has {', '.join(sorted(signatures))}: "
                "was it exported by `twotower export`?",
                model=model,
            )
        return signatures[key]

    def _fetch_signatures(self, model: str) -> Question[dict[str, Signature]]:
        response = yield Call(
            GET_METADATA,
            wire.GetModelMetadataRequest(
                model_spec=self._spec(model), metadata_field=["signature_def"]
            ),
        )
        signatures = wire.SignatureDefMap.FromString(response.metadata["signature_def"].value)
        return {
            key: Signature.from_proto(signature_def)
            for key, signature_def in signatures.signature_def.items()
            if not key.startswith("__saved_model_")
        }

    def _spec(self, model: str) -> Any:
        spec = wire.ModelSpec(name=model)
        if self._version is not None:
            spec.version.value = self._version
        elif self._version_label is not None:
            spec.version_label = self._version_label
        return spec
