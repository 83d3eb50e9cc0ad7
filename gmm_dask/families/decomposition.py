"""Covariances as volume, shape and orientation, the parts that mclust's names of models are about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gmm_dask.families.base import Array, Family, Parameters


class Decomposition(NamedTuple):
    """Parts of covariances: ``covariance = volume * orientation @ diag(shape) @ orientation.T``.

    Attributes
    ----------
    volumes : ndarray of shape (n_components,)
        ``determinant ** (1 / n_features)``, in the features' mean squared unit.
    shapes : ndarray of shape (n_components, n_features)
        Variances along the axes, of which the product is one.
    orientations : ndarray of shape (n_components, n_features, n_features)
        The axes, in columns.
    """

    volumes: Array
    shapes: Array
    orientations: Array


def decompose(family: Family, parameters: Parameters) -> Decomposition:
    """Decompose a mixture's covariances (Banfield and Raftery 1993).

    The axes are those of the features where the family has no other; where components share them, each has them in the
    same order; otherwise each has its own, the longest first. The largest entry of an axis is positive.
    """
    matrices = family.full_covariances(parameters)
    k, d = parameters.means.shape
    orientation = family.structure[2]
    if orientation == "I":
        axes = np.broadcast_to(np.eye(d), (k, d, d))
    elif orientation == "E":
        axes = np.broadcast_to(_axes(np.einsum("k,kab->ab", parameters.weights, matrices)), (k, d, d))
    else:
        axes = _axes(matrices)
    variances = np.einsum("kai,kab,kbi->ki", axes, matrices, axes)
    volumes = np.exp(np.log(variances).mean(axis=1))
    return Decomposition(volumes, variances / volumes[:, None], axes)


def _axes(matrices: Array) -> Array:
    """Eigenvectors in columns, that of the largest eigenvalue first."""
    axes: Array = np.linalg.eigh(matrices)[1][..., ::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=-2, keepdims=True), axis=-2)
    signed: Array = axes * np.where(largest < 0.0, -1.0, 1.0)
    return signed
