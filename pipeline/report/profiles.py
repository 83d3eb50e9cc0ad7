"""What sets each component apart: the features in which it differs most from all other rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmm_dask.plotting.feature_pairs import Components

Array = NDArray[np.float64]

# a component is described by so many features, if it is at least so many pooled standard deviations apart in them
MOST_FEATURES, LEAST_DISTANCE = 3, 0.5
DEGREES = ((2.0, "very"), (1.0, ""), (LEAST_DISTANCE, "slightly"))
# where it is apart in none: how many times larger or smaller a standard deviation must be to be worth a word
LEAST_RATIO = 1.5


@dataclass(frozen=True)
class Trait:
    """A feature in which a component differs from the other rows.

    Attributes
    ----------
    feature : int
        Its position.
    mean, others_mean : float
        Mean of the component, and of the other rows, in the units of the data.
    distance : float
        Their difference in pooled standard deviations; negative where the component lies lower.
    deviation, others_deviation : float
        Standard deviation of the component, and of the other rows.
    """

    feature: int
    mean: float
    others_mean: float
    distance: float
    deviation: float
    others_deviation: float

    @property
    def degree(self) -> str | None:
        """How far apart the means are, as a word; None if it is less than that is worth one."""
        return next((word for least, word in DEGREES if abs(self.distance) >= least), None)


def profile(components: Components, k: int) -> list[Trait]:
    """Return the features that set component ``k`` apart, the largest distance first.

    The other rows are the mixture of the other components, with the mean and the variance that it has. The distance is
    ``(mean - others_mean) / sqrt(w var + (1 - w) others_var)``, with the weight w of the component.

    Returns
    -------
    list of Trait
        Up to three, with a distance of 0.5 or more. Where there is none, the feature whose standard deviation differs
        most, if by a factor of 1.5 or more. Empty if nothing sets the component apart, and for a single component.
    """
    if len(components.weights) < 2:
        return []
    weight, mean, variance = components.weights[k], components.means[k], components.variances[k]
    others_mean, others_variance = _moments_without(components, k)
    pooled = np.sqrt(weight * variance + (1.0 - weight) * others_variance)
    # a feature that does not vary sets nothing apart
    distances = np.divide(mean - others_mean, pooled, out=np.zeros_like(mean), where=pooled > 0.0)
    deviations, others_deviations = np.sqrt(variance), np.sqrt(others_variance)
    found = np.argsort(-np.abs(distances), kind="stable")[:MOST_FEATURES]
    found = found[np.abs(distances[found]) >= LEAST_DISTANCE]
    if not len(found):
        tiny = np.finfo(np.float64).tiny
        scales = np.abs(np.log(np.maximum(deviations, tiny) / np.maximum(others_deviations, tiny)))
        found = np.flatnonzero((scales == scales.max()) & (scales >= np.log(LEAST_RATIO)))[:1]
    values = (mean, others_mean, distances, deviations, others_deviations)
    return [Trait(i, *(float(value[i]) for value in values)) for i in found.tolist()]


def _moments_without(components: Components, k: int) -> tuple[Array, Array]:
    """Return mean and variance (n_features,) of the mixture of the components other than ``k``."""
    others = np.arange(len(components.weights)) != k
    weights = components.weights[others] / components.weights[others].sum()
    mean = weights @ components.means[others]
    variance = weights @ (components.variances[others] + (components.means[others] - mean) ** 2)
    return mean, variance
