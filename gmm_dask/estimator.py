"""The estimator: scikit-learn's ``GaussianMixture`` for data of any size."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import sklearn.mixture

from gmm_dask.base import BaseMixture, CriterionMethods
from gmm_dask.em.fixed import check_fixed, n_fixed_parameters
from gmm_dask.em.loop import Settings, State
from gmm_dask.em.prior import PRIORS, DefaultPrior
from gmm_dask.em.verbose import FitPrinter
from gmm_dask.errors import UserError
from gmm_dask.families import NAMES, Noise, Parameters, get_family, require_default_types
from gmm_dask.families.noise import family_of
from gmm_dask.imputation import ImputationMethods
from gmm_dask.init.given import GivenParameters, check_given
from gmm_dask.inputs import MISSING, REFUSED, above, one_of, require_combinable
from gmm_dask.passes.bounding_box import Box, noise_box
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.rows import Rows
from gmm_dask.selection.grid import noise_choices


class GaussianMixture(CriterionMethods, ImputationMethods, BaseMixture):
    """Gaussian mixture fitted by expectation-maximisation, one read of the data a pass.

    The constructor, methods and fitted attributes are those of :class:`sklearn.mixture.GaussianMixture`. With the
    same ``random_state``, on data small enough that all its rows seed the starts (262,144 rows, fewer beyond 8
    features), it walks the same path and ends at the same parameters. All starts advance together, from the same
    read; memory does not grow with the rows.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : str, default='full'
        What covariances the components may have. scikit-learn's: 'full', each component its own matrix; 'tied', one
        matrix for all; 'diag', each its own variances; 'spherical', each its own single variance. mclust's other ten:
        'EII', 'EEI', 'VEI', 'EVI', 'VEE', 'EVE', 'VVE', 'EEV', 'VEV', 'EVV', in which the letters say whether the
        components have one volume, shape and orientation (E), each their own (V), or none (I). 'VVV', 'EEE', 'VVI' and
        'VII' are mclust's names of the first four.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood per row changes by less.
    reg_covar : float or 'auto', default=1e-6
        Added to the diagonal of every covariance, in the squared units of the data; 'auto' adds a millionth of each
        feature's variance, so that the fit does not depend on units, and not less than a twelfth of the square of the
        step that its values are rounded to. For mclust's ten it is added to the covariances that the components would
        have each for itself, of which those of the model are then made; 'EII' takes the mean over the features.
    max_iter : int, default=100
        Largest number of iterations of a start.
    n_init : int, default=1
        Number of starts; the best is kept. A start that becomes singular is dropped with a warning.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'auto'}, default='kmeans'
        How the starts are made, from all rows, or from a random sample of them if there are too many. The first four
        are scikit-learn's. 'auto' takes the best of many short runs of EM on a subsample in memory, improved by
        split and merge moves, also from fits of one component less and one more; each of the ``n_init`` starts is an
        independent search.
    weights_init : array-like of shape (n_components,), default=None
        With noise of shape (n_components + 1,): the last is the noise's.
    means_init : array-like of shape (n_components, n_features), default=None
    precisions_init : array-like, default=None
        First parameters, in place of the start's own. Precisions have shape (n_components, n_features, n_features) if
        'full', (n_features, n_features) if 'tied', (n_components, n_features) if 'diag', (n_components,) if
        'spherical'. Of mclust's ten, 'EII' has the shape of 'spherical', those that end with I that of 'diag', and the
        others that of 'full'; the precisions must be of the model.
    random_state : int, RandomState instance or None, default=None
        Draws the starts, and the rows of :meth:`sample`.
    warm_start : bool, default=False
        Whether the next fit goes on from the last one's parameters.
    feature_dims : str or iterable of str, default=None
        Of an X of xarray, a DataArray or a Dataset: the dimensions whose coordinates are columns, such as
        ``['depth']``; all others are rows, and with ``[]`` each variable is a column. Columns are called like
        ``temp[depth=10.0]``.
        X may be a lazy array of Dask, whose chunks are read one by one. Predictions are DataArrays on the grid of the
        rows, lazy if X is. A cell without any value, such as land, is no row: it has label -1, and NaN elsewhere.
        ``sample_weight`` is a DataArray on dimensions of the rows, such as the area of cells.
    verbose : int, default=0
        1 prints how the fit begins, every ``verbose_interval`` iterations, and how each start ends; 2 adds what a
        search for starts does, the lower bounds and the seconds.
    verbose_interval : int, default=10
    accelerate : bool, default=False
        Whether steps of EM are extrapolated, which takes fewer passes to the same likelihood where tol is small.
    start_effort : float, default=1.0
        How long ``init_params='auto'`` may search for a start: 1 is up to about five seconds on a core, 0.1 a tenth of
        it. Small data take less. Where even the first runs would take much more, as with full covariances of 1,000
        columns, the start is that of k-means.
    noise : bool or float, default=False
        Whether a uniform component stands beside the Gaussians, for rows that belong to none (Banfield and Raftery
        1993). True takes the bounding box of the rows, along the columns or along their principal axes, the one of
        the smaller volume, which takes one more read of the rows; a number is the volume of the box, in the units of
        X. Its density is the same everywhere, also for new rows outside the box. Of two starts the better is taken: one
        begins with the rows of a sample that lie where rows are thin as noise (Byers and Raftery 1998), the other with
        a little noise beside all rows. Its weight is one more parameter.
    fixed : array-like of int, default=None
        Numbers of components whose means and covariances stay those of ``means_init`` and ``precisions_init`` (without
        ``reg_covar``), while their weights and all other components are fitted: groups that are known, beside what is
        new. All three first parameters must be given. They do not count in ``bic``, ``aic`` and ``icl``, and the
        components share no part of their covariances ('full', 'diag' or 'spherical').

    prior : {None, 'default'}, default=None
        'default' is mclust's conjugate prior (Fraley and Raftery 2007): of each mean a normal distribution about the
        data's, which counts as 0.01 rows, and of each covariance an inverse Wishart distribution of ``n_features + 2``
        degrees of freedom, whose scale is the data's covariance over ``n_components ** (2 / n_features)``; diagonal and
        spherical ones take the mean of its diagonal. Parameters are those of the largest posterior density. No
        covariance becomes singular unless that of the data is, and few components are spurious. ``reg_covar`` is added
        before the prior is, and may be 0. Lower bounds are then log posteriors per row, without constants. The starts
        of 'auto' are those of maximum likelihood. Such fits do not run compiled as a whole, and take longer on data in
        memory.
    missing : {'error', 'likelihood'}, default='error'
        How to treat values that are missing: NaN, infinite, or masked. 'error' refuses them; 'likelihood' lets each row
        take part with the values that it has (Ghahramani and Jordan 1994), in :meth:`fit` and all other methods: its
        likelihood is that of these values alone. This is right where it does not depend on the missing values
        themselves that they are missing. Rows without any value take no part, and get label -1 and NaN. It takes no
        noise.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        With noise, they add up to ``1 - noise_weight_``.
    means_ : ndarray of shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Of the shape that ``precisions_init`` has; ``precisions = U U^T`` with U upper triangular.
    converged_ : bool
    status_ : str
        How the best start stands: ``'converged'``, ``'max_iter'``, ``'inner_max_iter'`` (the iterations within the
        last M-step stopped at their bound, as those of EVE may), or, where a component is no group of rows,
        ``'degenerate'`` (it holds one row or less) or ``'spurious'`` (it is far too narrow for its few rows): see
        :class:`gmm_dask.em.status.Status`.
    n_iter_ : int
        Iterations of the best start.
    lower_bound_ : float
        Its mean log-likelihood per row, before the last M-step.
    lower_bounds_ : list of float
        The same, for each of its iterations.
    noise_weight_, noise_volume_ : float
        Share of the noise, and the volume of its box; there if ``noise`` is not False.
    noise_box_ : ndarray of shape (n_features + 1, n_features)
        A corner of the box, and its edges from there; rows of the noise are drawn from it.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where X has column names that are strings.

    Examples
    --------
    >>> import numpy as np
    >>> from gmm_dask import GaussianMixture
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> mixture.predict([[0, 0], [12, 3]])
    array([1, 0])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMixture._parameter_constraints,
        "covariance_type": [one_of(NAMES)],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "noise": ["boolean", above(0.0)],
        "fixed": ["array-like", None],
        "prior": [one_of(PRIORS), None],
        "missing": [one_of(MISSING)],
    }
    _peer = sklearn.mixture.GaussianMixture

    _n_fixed = 0  # in the last fit

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float | str = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        feature_dims: str | Iterable[str] | None = None,
        verbose: int = 0,
        verbose_interval: int = 10,
        accelerate: bool = False,
        start_effort: float = 1.0,
        noise: bool | float = False,
        fixed: Any = None,
        prior: str | None = None,
        missing: str = REFUSED,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.feature_dims = feature_dims
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.accelerate = accelerate
        self.start_effort = start_effort
        self.noise = noise
        self.fixed = fixed
        self.prior = prior
        self.missing = missing

    @property
    def _may_have_gaps(self) -> bool:
        return not any(noise_choices(self.noise)[0])

    def _given(self, n_features: int) -> GivenParameters:
        require_combinable(self.missing, noise=any(noise_choices(self.noise)[0]))
        inits = self.weights_init, self.means_init, self.precisions_init
        family, (has_noise,) = get_family(self.covariance_type), noise_choices(self.noise)[0]
        return check_given(family, self.n_components, n_features, *inits, noise=has_noise)

    def _settings(self, data_summary: DataSummary) -> Settings:
        settings = super()._settings(data_summary)
        if self.prior is not None:
            require_default_types([get_family(self.covariance_type).name], f"prior={self.prior!r}", "prior=None")
            if self.fixed is not None:
                raise UserError(f"prior={self.prior!r} is none of fixed components: leave out one of both.")
            return replace(settings, inference=DefaultPrior.of(data_summary))
        if self.fixed is None:
            return settings
        given = self._given(len(data_summary.center))
        parameters = given.parameters(0.0 if noise_choices(self.noise)[0][0] else None) if given.are_complete else None
        family = get_family(self.covariance_type)
        return replace(settings, inference=check_fixed(self.fixed, family, self.n_components, parameters))

    def _n_parameters(self) -> int:
        return super()._n_parameters() - n_fixed_parameters(self._model[0], self._n_fixed, self.n_features_in_)

    def _box_around(self, rows: Rows, data_summary: DataSummary) -> Box | None:
        (has_noise,), log_volume = noise_choices(self.noise)
        names = getattr(self, "feature_names_in_", None)
        return noise_box(lambda: rows, data_summary, log_volume, names) if has_noise else None

    def _first_states(
        self, rows: Rows, data_summary: DataSummary, given: GivenParameters, settings: Settings, printer: FitPrinter
    ) -> list[State]:
        states = super()._first_states(rows, data_summary, given, settings, printer)
        return [
            replace(state, parameters=settings.inference.restored(state.parameters)) if state.parameters else state
            for state in (_in_box(state, settings.noise) for state in states)
        ]

    def _require_same_model(self, n_features: int) -> None:
        super()._require_same_model(n_features)
        (has_noise,) = noise_choices(self.noise)[0]
        if has_noise != hasattr(self, "noise_weight_"):
            raise UserError(
                f"warm_start goes on from the last fit, which had {'no ' * has_noise}noise; now noise is {self.noise}. "
                "Set warm_start=False, or fit a new estimator."
            )

    def _take_over(self, best: State, data_summary: DataSummary, settings: Settings) -> None:
        self.set_fitted(best, settings.noise)
        self._n_fixed = 0 if self.fixed is None else len(self.fixed)

    def set_fitted(self, state: State, box: Box | None = None) -> None:
        """Set the fitted attributes from the state in which a fit ended, and the box of its noise."""
        super().set_fitted(state)
        for name in ("noise_weight_", "noise_volume_", "noise_box_", "_noise_log_volume"):
            self.__dict__.pop(name, None)  # of an earlier fit
        if state.parameters is not None and (noise := state.parameters.noise) is not None and box is not None:
            self.noise_weight_ = noise.weight
            # of many columns, the volume itself may be beyond the range of numbers
            self._noise_log_volume = noise.log_volume
            with np.errstate(over="ignore"):
                self.noise_volume_ = float(np.exp(noise.log_volume))
            self.noise_box_ = np.vstack([box.corner, box.edges])

    @property
    def _model(self) -> Model:
        noise = Noise(self.noise_weight_, self._noise_log_volume) if hasattr(self, "noise_weight_") else None
        parameters = Parameters(self.weights_, self.means_, self.covariances_, self.precisions_cholesky_, noise=noise)
        return family_of(self.covariance_type, parameters), parameters

    @property
    def _noise_box(self) -> Box | None:
        return Box(self.noise_box_[0], self.noise_box_[1:]) if hasattr(self, "noise_box_") else None

    def to_sklearn(self) -> Any:
        """Return the same fitted mixture as a :class:`sklearn.mixture.GaussianMixture`.

        Settings that scikit-learn does not know (``accelerate``, and the value ``'auto'``) get its defaults.

        Raises
        ------
        ValueError
            If the mixture has noise, which scikit-learn's class has not.
        """
        if hasattr(self, "noise_weight_"):
            raise UserError(
                "scikit-learn's GaussianMixture has no noise component, and this mixture has one, of weight "
                f"{self.noise_weight_:.3g}. Fit with noise=False for a mixture that scikit-learn knows."
            )
        return super().to_sklearn()


def _in_box(state: State, box: Box | None) -> State:
    """Return a state whose noise, which may be that of an earlier fit, is uniform in this box."""
    if box is None or state.parameters is None or state.parameters.noise is None:
        return state
    noise = state.parameters.noise._replace(log_volume=box.log_volume)
    return replace(state, parameters=replace(state.parameters, noise=noise))
