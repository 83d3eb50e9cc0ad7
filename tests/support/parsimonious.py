"""The parsimonious models with NumPy, as the papers write them: what compiled M-steps are compared with."""

from __future__ import annotations

import numpy as np

# enough for what converges linearly, and where it ends
ITERATIONS, TOLERANCE = 5000, 1e-13


def expected_spread(weights, given, found):
    """``sum_k w_k [log|Sigma_k| + tr(S_k Sigma_k^-1)]``, which an M-step minimises."""
    logs = np.linalg.slogdet(found)[1] + np.trace(np.linalg.solve(found, given), axis1=1, axis2=2)
    return float(weights @ logs / weights.sum())


def constrained(name, weights, given):
    """The covariances of a model (Celeux and Govaert 1995) for those that components have each for itself."""
    w = weights / weights.sum()
    k, d, _ = given.shape
    variances = np.diagonal(given, axis1=1, axis2=2)
    if name == "EII":
        return np.stack([np.eye(d) * (w @ variances).mean()] * k)
    if name in ("EEI", "VEI", "EVI"):
        return np.stack([np.diag(v) for v in _variances(name, w, variances)])
    if name in ("EEV", "VEV"):
        values, vectors = np.linalg.eigh(given)
        return _composed(vectors, _variances({"EEV": "EEI", "VEV": "VEI"}[name], w, values))
    if name == "EVV":
        volumes = np.linalg.det(given) ** (1 / d)
        return given * (w @ volumes / volumes)[:, None, None]
    if name == "VEE":
        volumes = np.ones(k)
        for _ in range(ITERATIONS):
            matrix = np.einsum("k,kij->ij", w / volumes, given)
            before, volumes = volumes, np.trace(np.linalg.solve(matrix, given), axis1=1, axis2=2) / d
            if np.abs(volumes / before - 1.0).max() < TOLERANCE:
                break
        return volumes[:, None, None] * matrix
    starts = [np.linalg.eigh(matrix)[1] for matrix in (*given, np.einsum("k,kij->ij", w, given))]
    ends = [_on_common_axes(name, w, given, axes) for axes in starts]
    return min(ends, key=lambda end: expected_spread(w, given, end))


def _variances(name, w, variances):
    if name == "EEI":
        return np.stack([w @ variances] * len(w))
    if name == "EVI":
        volumes = np.exp(np.log(variances).mean(axis=1))
        return variances * (w @ volumes / volumes)[:, None]
    volumes = np.ones(len(w))
    for _ in range(ITERATIONS):
        shape = (w / volumes) @ variances
        before, volumes = volumes, (variances / shape).mean(axis=1)
        if np.abs(volumes / before - 1.0).max() < TOLERANCE:
            break
    return volumes[:, None] * shape


def _on_common_axes(name, w, given, axes):
    """EVE or VVE by the steps of Browne and McNicholas (2014), which majorise by the largest eigenvalues."""
    largest = np.linalg.eigvalsh(given)[:, -1]
    for _ in range(ITERATIONS):
        along = np.einsum("ai,kab,bi->ki", axes, given, axes)
        variances = _variances("EVI", w, along) if name == "EVE" else along
        linear = sum(
            share * (axes.T @ matrix / values[:, None] - top * axes.T / values[:, None])
            for share, matrix, values, top in zip(w, given, variances, largest, strict=True)
        )
        left, _, right = np.linalg.svd(linear)
        before, axes = axes, -(left @ right).T
        if np.abs(axes - before).max() < TOLERANCE:
            break
    along = np.einsum("ai,kab,bi->ki", axes, given, axes)
    return _composed(np.stack([axes] * len(w)), _variances("EVI", w, along) if name == "EVE" else along)


def _composed(axes, variances):
    return np.einsum("kai,ki,kbi->kab", axes, variances, axes)
