"""Two-tower retrieval on TensorFlow Recommenders: from interaction logs to a served recommender.

    import tfrs_twotower as tt

    prepared = tt.prepare("twotower.yaml", "dataset", "prepared")
    training = tt.train("twotower.yaml", "prepared", "run")
    evaluation = tt.evaluate("run", "prepared")
    export = tt.export("run", "prepared", "models")
    answer = tt.recommend("models", {"user_id": "42"}, k=10)

Data          `prepare` a log (files or pandas frames), `impressions`, `write_dataset`,
              `load_config`
Training      `train`, `tune`, `backtest`; for models of your own `RetrievalTask`, `losses`,
              `TwoTowerModel`
Evaluation    `evaluate`, `compare`, `report`, `explain`, `sensitivity`, `click_through`, `drift`;
              a page to look at the answers: `explore`; for embeddings of your own `rank_corpus`
Publishing    `export`, `refresh`, `versions`, `promote`, `rollback`, `doctor`, `signatures`,
              `embeddings`, `embeddings_to_mongodb`, `embeddings_to_milvus`, `embeddings_to_vertex`,
              `user_embeddings`; for towers of your own `export_retriever`, `index`
Answers       `serve`, `recommend`, `complete_query`, `titles`, `RetrievalClient`

What a user can cause raises `UserError`, or `UsageError` where the request itself is wrong. The
steps meet in folders, see `docs/glossary.md`. Names load when they are first used: importing this
package imports neither TensorFlow nor Beam nor pandas.
"""

import os
import sys
from typing import TYPE_CHECKING


def _pick_keras_2() -> None:
    """TensorFlow Recommenders needs it; TensorFlow decides when its Keras is first used."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or tensorflow.keras.layers.Layer.__module__.startswith("tf_keras"):
        return
    import warnings

    warnings.warn(
        "TensorFlow was used with Keras 3 before `import tfrs_twotower`, and TensorFlow "
        "Recommenders needs Keras 2: restart the runtime and import tfrs_twotower first",
        stacklevel=3,
    )


_pick_keras_2()
# Or TensorFlow's C++ code notes every end of a data set, and as an error that there is no GPU. What
# is an error comes as an exception, too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__all__ = [
    "Backtest",
    "ClickThrough",
    "Comparison",
    "Config",
    "ContextSensitivity",
    "CorpusRanking",
    "Drift",
    "EmbeddingStore",
    "Evaluation",
    "ExactIndex",
    "Explanation",
    "Export",
    "Finding",
    "Gate",
    "Prepared",
    "Recommendations",
    "Refresh",
    "RetrievalClient",
    "RetrievalTask",
    "ScannIndex",
    "TrainingResult",
    "Trial",
    "TuningResult",
    "TwoTowerModel",
    "UsageError",
    "UserError",
    "Version",
    "Versions",
    "backtest",
    "click_through",
    "compare",
    "complete_query",
    "doctor",
    "drift",
    "dump_config",
    "embeddings",
    "embeddings_to_milvus",
    "embeddings_to_mongodb",
    "embeddings_to_vertex",
    "evaluate",
    "explain",
    "explore",
    "export",
    "export_retriever",
    "impressions",
    "index",
    "load_config",
    "losses",
    "parse_config",
    "prepare",
    "promote",
    "rank_corpus",
    "recommend",
    "refresh",
    "report",
    "rollback",
    "sensitivity",
    "serve",
    "signatures",
    "titles",
    "train",
    "tune",
    "user_embeddings",
    "versions",
    "write_dataset",
]

if TYPE_CHECKING:
    # For editors and type checkers: what `_HOMES` says at run time.
    from serving.client import Recommendations, RetrievalClient
    from tfrs_twotower import index, losses
    from tfrs_twotower.api import (
        Prepared,
        backtest,
        click_through,
        complete_query,
        explore,
        impressions,
        prepare,
        promote,
        recommend,
        refresh,
        serve,
        titles,
        train,
        tune,
    )
    from tfrs_twotower.datasets import write_dataset
    from tfrs_twotower.evaluation import CorpusRanking, rank_corpus
    from tfrs_twotower.evaluation.ablation import ContextSensitivity
    from tfrs_twotower.evaluation.ablation import context_sensitivity as sensitivity
    from tfrs_twotower.evaluation.backtest import Backtest
    from tfrs_twotower.evaluation.click_through import ClickThrough
    from tfrs_twotower.evaluation.compare import Comparison, compare
    from tfrs_twotower.evaluation.drift import Drift, drift
    from tfrs_twotower.evaluation.evaluate import evaluate
    from tfrs_twotower.evaluation.explain import Explanation, explain
    from tfrs_twotower.evaluation.report import write_report as report
    from tfrs_twotower.evaluation.result import Evaluation
    from tfrs_twotower.index import ExactIndex, ScannIndex
    from tfrs_twotower.losses.retrieval_task import RetrievalTask
    from tfrs_twotower.models.two_tower import TwoTowerModel
    from tfrs_twotower.publishing.doctor import Finding
    from tfrs_twotower.publishing.doctor import examine as doctor
    from tfrs_twotower.publishing.embedding_database import (
        write_to_mongodb as embeddings_to_mongodb,
    )
    from tfrs_twotower.publishing.embedding_store import EmbeddingStore
    from tfrs_twotower.publishing.embedding_store import write_embeddings as embeddings
    from tfrs_twotower.publishing.export import Export, export
    from tfrs_twotower.publishing.milvus import write_to_milvus as embeddings_to_milvus
    from tfrs_twotower.publishing.refresh import Refresh
    from tfrs_twotower.publishing.release import Gate
    from tfrs_twotower.publishing.retriever_export import export_retriever
    from tfrs_twotower.publishing.signature_reference import signatures
    from tfrs_twotower.publishing.user_embeddings import write_user_embeddings as user_embeddings
    from tfrs_twotower.publishing.versions import Version, Versions, rollback
    from tfrs_twotower.publishing.versions import list_versions as versions
    from tfrs_twotower.publishing.vertex import write_to_vertex as embeddings_to_vertex
    from tfrs_twotower.schema import (
        Config,
        UsageError,
        UserError,
        dump_config,
        load_config,
        parse_config,
    )
    from tfrs_twotower.schema.version import __version__ as __version__
    from tfrs_twotower.training.train import TrainingResult
    from tfrs_twotower.training.tune import Trial, TuningResult
else:
    _HOMES = {
        "__version__": "tfrs_twotower.schema.version:__version__",
        "Backtest": "tfrs_twotower.evaluation.backtest:Backtest",
        "ClickThrough": "tfrs_twotower.evaluation.click_through:ClickThrough",
        "Comparison": "tfrs_twotower.evaluation.compare:Comparison",
        "Config": "tfrs_twotower.schema:Config",
        "ContextSensitivity": "tfrs_twotower.evaluation.ablation:ContextSensitivity",
        "CorpusRanking": "tfrs_twotower.evaluation:CorpusRanking",
        "Drift": "tfrs_twotower.evaluation.drift:Drift",
        "EmbeddingStore": "tfrs_twotower.publishing.embedding_store:EmbeddingStore",
        "Evaluation": "tfrs_twotower.evaluation.result:Evaluation",
        "ExactIndex": "tfrs_twotower.index:ExactIndex",
        "Explanation": "tfrs_twotower.evaluation.explain:Explanation",
        "Export": "tfrs_twotower.publishing.export:Export",
        "Finding": "tfrs_twotower.publishing.doctor:Finding",
        "Gate": "tfrs_twotower.publishing.release:Gate",
        "Prepared": "tfrs_twotower.api:Prepared",
        "Recommendations": "serving.client:Recommendations",
        "Refresh": "tfrs_twotower.publishing.refresh:Refresh",
        "RetrievalClient": "serving.client:RetrievalClient",
        "RetrievalTask": "tfrs_twotower.losses.retrieval_task:RetrievalTask",
        "ScannIndex": "tfrs_twotower.index:ScannIndex",
        "TrainingResult": "tfrs_twotower.training.train:TrainingResult",
        "Trial": "tfrs_twotower.training.tune:Trial",
        "TuningResult": "tfrs_twotower.training.tune:TuningResult",
        "TwoTowerModel": "tfrs_twotower.models.two_tower:TwoTowerModel",
        "UsageError": "tfrs_twotower.schema:UsageError",
        "UserError": "tfrs_twotower.schema:UserError",
        "Version": "tfrs_twotower.publishing.versions:Version",
        "Versions": "tfrs_twotower.publishing.versions:Versions",
        "backtest": "tfrs_twotower.api:backtest",
        "click_through": "tfrs_twotower.api:click_through",
        "compare": "tfrs_twotower.evaluation.compare:compare",
        "complete_query": "tfrs_twotower.api:complete_query",
        "doctor": "tfrs_twotower.publishing.doctor:examine",
        "drift": "tfrs_twotower.evaluation.drift:drift",
        "dump_config": "tfrs_twotower.schema:dump_config",
        "embeddings_to_milvus": "tfrs_twotower.publishing.milvus:write_to_milvus",
        "embeddings_to_mongodb": ("tfrs_twotower.publishing.embedding_database:write_to_mongodb"),
        "embeddings_to_vertex": "tfrs_twotower.publishing.vertex:write_to_vertex",
        "embeddings": "tfrs_twotower.publishing.embedding_store:write_embeddings",
        "evaluate": "tfrs_twotower.evaluation.evaluate:evaluate",
        "explain": "tfrs_twotower.evaluation.explain:explain",
        "explore": "tfrs_twotower.api:explore",
        "export": "tfrs_twotower.publishing.export:export",
        "export_retriever": "tfrs_twotower.publishing.retriever_export:export_retriever",
        "impressions": "tfrs_twotower.api:impressions",
        "index": "tfrs_twotower.index",
        "load_config": "tfrs_twotower.schema:load_config",
        "losses": "tfrs_twotower.losses",
        "parse_config": "tfrs_twotower.schema:parse_config",
        "prepare": "tfrs_twotower.api:prepare",
        "promote": "tfrs_twotower.api:promote",
        "rank_corpus": "tfrs_twotower.evaluation:rank_corpus",
        "recommend": "tfrs_twotower.api:recommend",
        "refresh": "tfrs_twotower.api:refresh",
        "report": "tfrs_twotower.evaluation.report:write_report",
        "rollback": "tfrs_twotower.publishing.versions:rollback",
        "sensitivity": "tfrs_twotower.evaluation.ablation:context_sensitivity",
        "serve": "tfrs_twotower.api:serve",
        "signatures": "tfrs_twotower.publishing.signature_reference:signatures",
        "titles": "tfrs_twotower.api:titles",
        "train": "tfrs_twotower.api:train",
        "tune": "tfrs_twotower.api:tune",
        "user_embeddings": "tfrs_twotower.publishing.user_embeddings:write_user_embeddings",
        "versions": "tfrs_twotower.publishing.versions:list_versions",
        "write_dataset": "tfrs_twotower.datasets:write_dataset",
    }

    def __getattr__(name):
        """Imports a public name when it is first used (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pkgutil import resolve_name

        value = globals()[name] = resolve_name(_HOMES[name])
        return value

    def __dir__():
        """The public names, for completion."""
        return [*__all__, "__version__"]
