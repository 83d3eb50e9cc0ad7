"""The features, alone and in pairs, that separate a mixture's components: what a picture of them should show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_dask.families import Noise

Array = NDArray[np.float64]

# pairs are searched among so many features, those that separate most, for so many components, the heaviest: with 60
# features and 40 components, 1,770 pairs of features take 780 overlaps each
MOST_FEATURES = 60
MOST_COMPONENTS = 40
# a further picture is worth it if it removes this part of the overlap that the ones before leave
WORTH = 0.05  # a matter of taste: less is hardly visible


@dataclass(frozen=True, eq=False)
class Components:
    """A mixture's components as matrices, whatever its covariance type.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
    means : ndarray of shape (n_components, n_features)
    covariances : ndarray of shape (n_components, n_features, n_features)
    names : tuple of str
        Of the features.
    given_numbers : tuple of int, optional
        Numbers of the components, where they are not their positions.
    noise : Noise, optional
        The uniform component beside them, in the same units.
    """

    weights: Array
    means: Array
    covariances: Array
    names: tuple[str, ...]
    given_numbers: tuple[int, ...] | None = None
    noise: Noise | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the components, which their colours follow."""
        return self.given_numbers or tuple(range(len(self.weights)))

    @property
    def variances(self) -> Array:
        """Each component's variances (n_components, n_features)."""
        return np.asarray(np.diagonal(self.covariances, axis1=1, axis2=2))

    @property
    def center(self) -> Array:
        """The mixture's mean (n_features,)."""
        return np.average(self.means, axis=0, weights=self.weights)

    @property
    def deviations(self) -> Array:
        """The mixture's standard deviations (n_features,)."""
        spread = (self.means - self.center) ** 2
        return np.asarray(np.sqrt(np.average(self.variances + spread, axis=0, weights=self.weights)))


def components_of(mixture: Any) -> Components:
    """Return the components of a fitted GaussianMixture, or of a GaussianMixtureSearch's winner.

    Features without names are called x0, x1, ...
    """
    from gmm_dask.inputs import require_mixture  # reports draw without scikit-learn

    require_mixture(mixture)
    family, parameters = mixture._model
    names = getattr(mixture, "feature_names_in_", [f"x{d}" for d in range(parameters.means.shape[1])])
    covariances = family.full_covariances(parameters)
    numbers = getattr(mixture, "component_numbers_", None)  # of a mixture that was loaded from a result store
    given = None if numbers is None else tuple(int(number) for number in numbers)
    return Components(
        parameters.weights, parameters.means, covariances, tuple(map(str, names)), given, parameters.noise
    )


def separating_features(components: Components) -> NDArray[np.intp]:
    """Sort the features by Fisher's ratio, the variance between the means by that within components, largest first."""
    between = components.weights @ (components.means - components.center) ** 2
    return np.argsort(-between / (components.weights @ components.variances), kind="stable")


def separating_pairs(components: Components, most: int = 3) -> list[tuple[int, int]]:
    """Return the pairs of features in whose planes the components are separated best.

    In the plane of two features, ``sqrt(w_k w_l) exp(-D_kl)`` bounds the probability that rows of components k and l
    are confused, with D_kl the Bhattacharyya distance (Kailath 1967, "The divergence and Bhattacharyya distance
    measures in signal selection"). The first pair has the smallest sum of these bounds; each further pair separates
    components that the earlier ones leave overlapping: it lowers the sum most, every two components counted in the
    plane where they overlap least. For a single component the two most correlated features are returned.

    Parameters
    ----------
    components : Components
    most : int
        Largest number of pairs. There are fewer if a further one would add little, and none for a single feature.

    Returns
    -------
    list of (int, int)
        Positions of the features, the smaller first.
    """
    if components.means.shape[1] < 2:
        return []
    features = np.sort(separating_features(components)[:MOST_FEATURES])
    if len(components.weights) == 1:
        return [_most_correlated(components.covariances[0])]
    pairs, overlaps = _overlaps(components, features)
    chosen = [int(overlaps.sum(axis=1).argmin())]
    left = overlaps[chosen[0]]
    while len(chosen) < most:
        sums = np.minimum(overlaps, left).sum(axis=1)
        best = int(sums.argmin())
        if sums[best] > (1.0 - WORTH) * left.sum():
            break
        chosen.append(best)
        left = np.minimum(left, overlaps[best])
    return [pairs[i] for i in chosen]


def _most_correlated(covariance: Array) -> tuple[int, int]:
    deviations = np.sqrt(np.diagonal(covariance))
    correlations = np.triu(np.abs(covariance / np.outer(deviations, deviations)), k=1)
    a, b = np.unravel_index(int(correlations.argmax()), covariance.shape)
    return (int(a), int(b)) if a < b else (0, 1)


def _overlaps(components: Components, features: NDArray[np.intp]) -> tuple[list[tuple[int, int]], Array]:
    """Return all pairs of features, and the overlaps (n_pairs, n_pairs_of_components) in their planes."""
    heaviest = np.argsort(-components.weights, kind="stable")[:MOST_COMPONENTS]
    k, l = (heaviest[side] for side in np.triu_indices(len(heaviest), k=1))  # noqa: E741 (as in the formula)
    weights = np.sqrt(components.weights[k] * components.weights[l])
    pairs = [(int(a), int(b)) for i, a in enumerate(features) for b in features[i + 1 :]]
    overlaps = np.empty((len(pairs), len(k)))
    for row, pair in zip(overlaps, pairs, strict=True):
        means = components.means[:, pair]
        covariances = components.covariances[np.ix_(range(len(means)), pair, pair)]
        row[:] = weights * np.exp(-_bhattacharyya(means[k] - means[l], covariances[k], covariances[l]))
    return pairs, overlaps


def _bhattacharyya(difference: Array, one: Array, other: Array) -> Array:
    """Return the distances (n,) of pairs of Gaussians in the plane.

    ``d' S^-1 d / 8 + log(|S| / sqrt(|S_k| |S_l|)) / 2``, with d the difference of the means and S the mean covariance.
    """
    middle = 0.5 * (one + other)
    x, y = difference.T
    # d' adj(S) d, with the adjugate of a 2 x 2 matrix; divided by |S| below
    squared = x * x * middle[:, 1, 1] - 2.0 * x * y * middle[:, 0, 1] + y * y * middle[:, 0, 0]
    logs = [np.log(_determinants(matrices)) for matrices in (middle, one, other)]
    distances: Array = squared / (8.0 * np.exp(logs[0])) + 0.5 * (logs[0] - 0.5 * (logs[1] + logs[2]))
    return distances


def _determinants(matrices: Array) -> Array:
    product = matrices[:, 0, 0] * matrices[:, 1, 1]
    # of a nearly singular matrix, rounding may leave zero or less
    return np.maximum(product - matrices[:, 0, 1] ** 2, np.finfo(np.float64).eps * product)
