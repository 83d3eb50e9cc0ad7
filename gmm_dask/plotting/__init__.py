"""Pictures of a fitted mixture and of a search; each function returns matplotlib's axes."""

from gmm_dask.plotting.feature_pairs import components_of
from gmm_dask.plotting.plots import (
    plot_bounds,
    plot_clusters,
    plot_criteria,
    plot_means,
    plot_uncertainty,
)

__all__ = ["components_of", "plot_bounds", "plot_clusters", "plot_criteria", "plot_means", "plot_uncertainty"]
