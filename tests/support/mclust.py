"""mclust's tables: see tests/data/README.md."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gmm_dask.families import FAMILIES
from paths import ROOT

MCLUST_NAMES = {name: family.structure for name, family in FAMILIES.items()}
DATA_SETS = ("iris", "old_faithful", "quakes", "swiss", "usarrests")
# Started from single rows, components have no variance but this.
REG_COVAR = 1e-6


def data_set(name):
    """The rows of one of R's data sets."""
    folder = "configs/data" if name == "old_faithful" else "tests/data"
    return pd.read_csv(ROOT / f"{folder}/{name}.csv").to_numpy(np.float64)


def bic_table(name):
    """mclust's BIC by K and model, with our sign."""
    return -pd.read_csv(ROOT / f"tests/data/{name}_mclust_bic.csv", index_col=0)


def mixtures(source, data, model):
    """Log-likelihood, weights, means and covariance matrices of mclust's fits (``fit``) or M-steps (``mstep``)."""
    table = pd.read_csv(ROOT / "tests/data/mclust_models.csv.gz")
    mine = table[(table.source == source) & (table.data == data) & (table.model == model)]
    for _, rows in mine.groupby("n_components"):
        means, triangles = (
            np.array([np.fromstring(text, sep=" ") for text in rows[c]]) for c in ("mean", "covariance")
        )
        d = means.shape[1]
        matrices = np.empty((len(rows), d, d))
        upper = np.triu_indices(d)
        matrices[:, *upper] = triangles
        matrices[:, upper[1], upper[0]] = triangles
        yield rows.log_likelihood.iloc[0], rows.weight.to_numpy(), means, matrices


def in_shape(family, matrices):
    """Covariance matrices in the shape of a family."""
    variances = np.diagonal(matrices, axis1=1, axis2=2)
    shapes = {"full": matrices, "tied": matrices[0], "diag": variances, "spherical": variances[:, 0]}
    return np.ascontiguousarray(shapes[family.sklearn_type])
