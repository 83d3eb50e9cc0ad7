"""Clusters of components: those of a fitted mixture that overlap are merged, by a sample of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.predict import predict_rows
from gmm_dask.passes.row_outputs import RESPONSIBILITY
from gmm_dask.passes.rows import sampled_rows
from gmm_dask.selection.cluster_tree import ClusterTree, cluster_tree

if TYPE_CHECKING:
    from gmm_dask.base import MixtureMethods

Array = NDArray[np.float64]

# the entropies are estimated from so many rows: each pair of components that overlaps takes a part of them
MOST_ROWS = 10_000


def merge_components(model: MixtureMethods, X: Any, sample_weight: Any = None) -> ClusterTree:
    """Merge the components of a fitted mixture that overlap, two at a time.

    Parameters
    ----------
    model : GaussianMixture or GaussianMixtureSearch
        Fitted.
    X : array-like of shape (n_rows, n_features)
        Of more than 10,000 rows, a random sample of at most so many takes part, always the same.
    sample_weight : array-like of shape (n_rows,), optional
        How often each row counts.

    Returns
    -------
    ClusterTree

    Raises
    ------
    ValueError
        If the model is not fitted, or X or the weights are not usable.

    Examples
    --------
    >>> import numpy as np
    >>> from gmm_dask import GaussianMixture, merge_components
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> merge_components(mixture, X).clusters()
    array([0, 1])
    """
    from gmm_dask.inputs import read_rows, require_mixture  # scikit-learn comes with them

    require_mixture(model)
    rows = read_rows(model, X, sample_weight, reset=False, gaps=model._gaps)
    with one_blas_thread():
        found = summarize_rows(rows, seed=0)
    return merge_sampled(found.sample, found.sample_weights, model._model)


def merge_sampled(sample: Array, weights: Array | None, model: Model) -> ClusterTree:
    """Merge the components of a mixture by a random sample of rows (n_sampled, n_features) in its units."""
    step = slice(None, None, -(-len(sample) // MOST_ROWS))
    # a kernel for rows that are apart would be another one
    rows = sampled_rows(np.ascontiguousarray(sample[step]))
    resp = predict_rows(rows, *model, [RESPONSIBILITY.name])[RESPONSIBILITY.name]
    resp = resp[:, : len(model[1].weights)]  # the noise is no part of a cluster
    return cluster_tree(resp, None if weights is None else weights[step])
