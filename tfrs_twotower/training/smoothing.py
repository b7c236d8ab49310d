"""Laplacian smoothing: embeddings of ids drawn towards those of ids with the same neighbours.

The graph joins a query and a candidate by an edge if the candidate is a positive of the query among
what is trained on. With A its adjacency matrix (rows of one table x entries of the other side), D
its degrees and B = D^-1/2 A D'^-1/2, LightGCN's normalisation (He et al. 2020, equation 3), a table
E becomes (1 - share) E + share B B' E. That is a gradient step of size `share` on the Laplacian
regulariser 1/2 tr(E' (I - B B') E), whose eigenvalues are from 0 to 1, so its size falls with the
learning rate as that of the other gradients does. The two hops stay on one side, so the tables need
no common space, and a tower may read more than its id.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tfrs_twotower.data.prepared import Arrays, Corpus
from tfrs_twotower.keras import keras
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema import prepared as layout

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class GraphSmoothing(keras.callbacks.Callback):
    """Smooths the tables of ids before each epoch but the first.

    What is validated, kept and exported has been trained for an epoch since. The step depends on
    the weights and the schedule alone, so a resumed training takes the same one.
    """

    def __init__(self, config: Config, examples: Arrays, corpus: Corpus) -> None:
        """Makes the graph.

        Args:
            config: `training.graph_smoothing`, the share at the full learning rate, and which
                features are ids.
            examples: What is trained on.
            corpus: The candidates.
        """
        super().__init__()
        self._training = config.training
        self._graphs = dict(_graphs(config, examples, corpus))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Takes the step.

        Raises:
            UserError: If a model of the user's own has no table of that name.
        """
        if epoch == 0:
            return
        rate = float(keras.backend.get_value(self.model.optimizer.learning_rate))
        share = self._training.graph_smoothing * rate / self._training.learning_rate
        tables = {one.name: one for one in self.model.submodules if _is_table(one)}
        for name, (rows, graph) in self._graphs.items():
            if name not in tables:
                raise UserError(
                    "`training.graph_smoothing`: the model has no keras.layers.Embedding named "
                    f"{name!r}, like the feature: name its table so, or leave the setting out"
                )
            [embeddings] = tables[name].get_weights()
            embeddings[rows] = smoothed(embeddings[rows], graph, share)
            tables[name].set_weights([embeddings])


def normalized_graph(rows: Ints, others: Ints) -> tuple[Ints, sp.csr_matrix]:
    """The rows that have an edge, ascending, and B for them; an edge that is repeated counts once.

    Args:
        rows: `[num_edges]`, of the table.
        others: `[num_edges]`, the other end.

    Returns:
        `[num_rows]` distinct rows, and `[num_rows, num_others]` float32.
    """
    distinct, places = np.unique(rows, return_inverse=True)
    _, other_places = np.unique(others, return_inverse=True)
    graph = sp.csr_matrix((np.ones(len(places), np.float32), (places, other_places)))
    graph.data[:] = 1.0
    degrees, other_degrees = (np.asarray(graph.sum(axis=axis)).ravel() for axis in (1, 0))
    scaled = sp.diags(degrees**-0.5) @ graph @ sp.diags(other_degrees**-0.5)
    return distinct, scaled.tocsr().astype(np.float32)


def smoothed(embeddings: Floats, graph: sp.csr_matrix, share: float) -> Floats:
    """(1 - share) E + share B B' E.

    Args:
        embeddings: `[num_rows, embedding_dim]` float32, E.
        graph: `[num_rows, num_others]` float32, B; see `normalized_graph`.
        share: From 0, no change, to 1.
    """
    return (1.0 - share) * embeddings + share * (graph @ (graph.T @ embeddings))


def _graphs(
    config: Config, examples: Arrays, corpus: Corpus
) -> Iterator[tuple[str, tuple[Ints, sp.csr_matrix]]]:
    """The graph of each id, by the name of the feature."""
    is_positive = examples[layout.LABEL] == 1
    queries = examples[layout.QUERY_ROW][is_positive]
    candidates = examples[layout.CANDIDATE_ROW][is_positive]
    if config.query_id is not None:
        name = config.query_id.name
        yield name, normalized_graph(examples[name][is_positive], candidates)
    if config.candidate_id is not None:
        name = config.candidate_id.name
        yield name, normalized_graph(corpus.features[name][candidates], queries)


def _is_table(layer: object) -> bool:
    return isinstance(layer, keras.layers.Embedding)
