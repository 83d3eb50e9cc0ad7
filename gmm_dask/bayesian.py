"""The variational estimator: scikit-learn's ``BayesianGaussianMixture`` for data of any size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import sklearn.mixture

from gmm_dask.base import BaseMixture
from gmm_dask.em.loop import Settings, State
from gmm_dask.em.regularization import settings_for
from gmm_dask.families import Posterior, get_family
from gmm_dask.init.given import NOTHING_GIVEN, GivenParameters
from gmm_dask.inputs import above, one_of
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.model_batch import Model
from gmm_dask.variational.inference import Variational
from gmm_dask.variational.priors import PRIOR_TYPES, PROCESS, Priors, check_priors


class BayesianGaussianMixture(BaseMixture):
    """Variational Bayesian Gaussian mixture, one read of the data a pass.

    Posterior distributions stand in place of parameters (Bishop 2006, "Pattern recognition and machine learning",
    section 10.2), and components that the data do not need lose their weight: ``n_components`` is the largest number.
    The constructor, methods and fitted attributes are those of :class:`sklearn.mixture.BayesianGaussianMixture`. With
    the same ``random_state``, on data small enough that all its rows seed the starts, it walks the same path and ends
    at the same posteriors. Memory does not grow with the rows.

    Parameters
    ----------
    n_components : int, default=1
        The largest number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
    tol : float, default=1e-3
        A start has converged when its lower bound, the total over the rows, changes by less.
    reg_covar : float or 'auto', default=1e-6
        Added to the diagonal of every component's covariance, in the squared units of the data, before the prior is;
        'auto' as in :class:`GaussianMixture`.
    max_iter, n_init, init_params
        As in :class:`GaussianMixture`. The starts of 'auto' are those of maximum likelihood, from which the first
        iteration makes posteriors.
    weight_concentration_prior_type : {'dirichlet_process', 'dirichlet_distribution'}, default='dirichlet_process'
        Of the weights: a truncated Dirichlet process (Blei and Jordan 2006), or a Dirichlet distribution.
    weight_concentration_prior : float, default=None
        The smaller, the fewer components have weight; None is ``1 / n_components``.
    mean_precision_prior : float, default=None
        How many rows the prior of a mean counts as; None is 1.
    mean_prior : array-like of shape (n_features,), default=None
        None is the mean of the data.
    degrees_of_freedom_prior : float, default=None
        How many rows the prior of a covariance counts as, more than ``n_features - 1``; None is ``n_features``.
    covariance_prior : float or array-like, default=None
        The scatter of these rows, in the squared units of the data: full and tied (n_features, n_features), diag
        (n_features,), spherical a number. None is the covariance of the data.
    random_state, warm_start, verbose, verbose_interval, start_effort, feature_dims
        As in :class:`GaussianMixture`.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Expected weights.
    means_ : ndarray of shape (n_components, n_features)
        Expected means.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Expected precisions, their inverses and their factors, of the shapes that :class:`GaussianMixture` gives them.
    weight_concentration_ : tuple of two ndarrays of shape (n_components,), or one
        Of the Beta distributions of a Dirichlet process, or of the Dirichlet distribution.
    mean_precision_ : ndarray of shape (n_components,)
    degrees_of_freedom_ : ndarray of shape (n_components,), or a number for 'tied'
    weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_, covariance_prior_
        The priors, with the defaults filled in.
    converged_, status_, n_iter_, n_features_in_, feature_names_in_
        As in :class:`GaussianMixture`.
    lower_bound_ : float
        Of the best start, on the logarithm of the evidence of the data, total over the rows, without the constants that
        scikit-learn leaves out.
    lower_bounds_ : list of float
        The same, for each of its iterations.

    Examples
    --------
    >>> import numpy as np
    >>> from gmm_dask import BayesianGaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7]])
    >>> mixture = BayesianGaussianMixture(n_components=2, random_state=42).fit(X)
    >>> mixture.predict([[0, 0], [9, 3]])
    array([0, 1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMixture._parameter_constraints,
        "weight_concentration_prior_type": [one_of(PRIOR_TYPES)],
        "weight_concentration_prior": [None, above(0.0)],
        "mean_precision_prior": [None, above(0.0)],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, above(0.0)],
        "covariance_prior": [None, "array-like", above(0.0)],
    }
    _peer = sklearn.mixture.BayesianGaussianMixture

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | str = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = PROCESS,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        feature_dims: str | Iterable[str] | None = None,
        verbose: int = 0,
        verbose_interval: int = 10,
        start_effort: float = 1.0,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.feature_dims = feature_dims
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.start_effort = start_effort

    def _given(self, n_features: int) -> GivenParameters:
        self._given_priors = check_priors(
            get_family(self.covariance_type),
            n_features,
            self.weight_concentration_prior_type,
            self.weight_concentration_prior,
            self.mean_precision_prior,
            self.mean_prior,
            self.degrees_of_freedom_prior,
            self.covariance_prior,
        )
        return NOTHING_GIVEN

    def _settings(self, data_summary: DataSummary) -> Settings:
        # the loop compares bounds per row
        tol = self.tol / data_summary.total_weight
        settings = settings_for(data_summary, tol, self.max_iter, self.reg_covar, accelerate=False)
        return replace(settings, inference=Variational.of(data_summary, self._given_priors))

    def _last_bound(self, total_weight: float) -> float:
        return float(self.lower_bound_ / total_weight)

    def _take_over(self, best: State, data_summary: DataSummary, settings: Settings) -> None:
        assert isinstance(settings.inference, Variational)
        priors = settings.inference.priors(get_family(self.covariance_type), self.n_components)
        self.set_posterior(best, priors, data_summary.total_weight)

    def set_posterior(self, state: State, priors: Priors, total_weight: float) -> None:
        """Set the fitted attributes from the state in which a fit ended, its priors and the weight of its rows."""
        self.set_fitted(state)
        posterior = state.parameters
        assert isinstance(posterior, Posterior)
        concentration = posterior.weight_concentration
        self.weight_concentration_ = concentration if concentration.ndim == 1 else tuple(concentration)
        self.mean_precision_ = posterior.mean_precision
        self.degrees_of_freedom_ = posterior.degrees_of_freedom[()]
        self.weight_concentration_prior_ = priors.weight_concentration
        self.mean_precision_prior_ = priors.mean_precision
        self.mean_prior_ = priors.mean
        self.degrees_of_freedom_prior_ = priors.degrees_of_freedom
        self.covariance_prior_ = priors.covariance[()]
        self.lower_bound_ = state.lower_bound * total_weight
        self.lower_bounds_ = [bound * total_weight for bound in state.lower_bounds]

    @property
    def _model(self) -> Model:
        return get_family(self.covariance_type), Posterior(
            self.weights_,
            self.means_,
            self.covariances_,
            self.precisions_cholesky_,
            np.asarray(self.weight_concentration_),
            self.mean_precision_,
            np.asarray(self.degrees_of_freedom_),
        )
