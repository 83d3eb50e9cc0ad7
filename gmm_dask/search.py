"""The search: every number of components and covariance type at once, from the same reads of the data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

from numpy.random import RandomState
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from gmm_dask.base import CriterionMethods
from gmm_dask.bayesian import BayesianGaussianMixture
from gmm_dask.em import loop, resamples
from gmm_dask.em.in_memory import fit_states
from gmm_dask.em.loop import State, Status
from gmm_dask.em.prior import PRIORS
from gmm_dask.em.regularization import AUTO
from gmm_dask.em.resamples import first_refits
from gmm_dask.em.verbose import FitPrinter
from gmm_dask.errors import UserError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.families import DEFAULT_TYPES, MCLUST, NAMES, require_default_types
from gmm_dask.families.candidate import Candidate
from gmm_dask.formatting import counted
from gmm_dask.imputation import ImputationMethods
from gmm_dask.init.starts import first_states
from gmm_dask.inputs import (
    FIT_CONSTRAINTS,
    MISSING,
    REFUSED,
    above,
    at_least,
    below_one,
    check_parameters,
    one_of,
    read_rows,
    require_combinable,
    sample_seed,
)
from gmm_dask.passes.bounding_box import Box, noise_box
from gmm_dask.passes.data_summary import DataSummary
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.model_batch import Model
from gmm_dask.passes.resampling import Resampling, summarize_resamples
from gmm_dask.passes.rows import Rows, hold_out
from gmm_dask.selection.criteria import CRITERIA, criteria_of
from gmm_dask.selection.diagnostics import remarks
from gmm_dask.selection.grid import (
    GridExtension,
    check_candidates,
    extend_grid,
    generator_copies,
    in_grid_order,
    noise_choices,
)
from gmm_dask.selection.outcomes import Outcome, best_outcome, by_candidate, choose, evaluate_states
from gmm_dask.selection.results import results_table
from gmm_dask.selection.stability import ResampledSearch, evaluate_refits
from gmm_dask.variational.inference import INFERENCES, Variational, inference_of


class GaussianMixtureSearch(CriterionMethods, ImputationMethods):
    """Choice of the number of components and the covariance type by a criterion.

    All candidates and all their starts take their statistics from the same read of the data; a candidate that has
    converged leaves. Each ends where a :class:`GaussianMixture` with the same settings would.

    Once fitted, the methods are those of the winner.

    Parameters
    ----------
    n_components : int or iterable of int, default=range(1, 10)
    covariance_types : str or iterable of str, default=('full', 'tied', 'diag', 'spherical')
        Those of :class:`GaussianMixture`; ``'mclust'`` stands for all fourteen. One that is named twice is fitted once.
    criterion : {'bic', 'aic', 'icl', 'elbo', 'held_out'}, default=None
        The criterion to minimise; see :data:`gmm_dask.selection.criteria.CRITERIA`. None is 'bic', and 'elbo' with
        ``inference='variational'``, which takes this and 'held_out' alone. 'held_out' is -2 times the
        log-likelihood of the rows that ``held_out`` holds out; of the candidates within one standard error of the
        smallest, the one with the fewest parameters wins.
    inference : {'em', 'variational'}, default='em'
        How the candidates are estimated: :class:`GaussianMixture`, or :class:`BayesianGaussianMixture`, whose numbers
        of components are upper bounds, with a Dirichlet distribution of the weights and the other priors as they are
        by default. It takes no ``accelerate``, ``resamples``,
        ``noise`` and ``prior``.
    n_init, tol, max_iter
        As in :class:`GaussianMixture`; ``tol`` is per row for variational mixtures, too.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'auto'}, default='auto'
        As in :class:`GaussianMixture`, whose default is scikit-learn's. With the defaults a search chooses as a job
        does.
    reg_covar : float or 'auto', default='auto'
        As in :class:`GaussianMixture`, whose default is scikit-learn's.
    random_state : int, RandomState instance or None, default=None
        Every candidate starts from this seed, or from a copy of this generator.
    accelerate : bool, default=False
        As in :class:`GaussianMixture`.
    start_effort : float, default=1.0
        As in :class:`GaussianMixture`, for each candidate.
    held_out : float, default=0.0
        Fraction of the rows, 0 <= fraction < 1, that take no part in the fits and their criteria, and show how well
        the mixtures describe unseen rows. Which rows follows from the seed and each row's position, not from chunks;
        where a Dask collection's lengths are not known, from its partition and the position in it.
    extend : bool, default=False
        Whether to extend the grid as long as the winner has the most components of it, or the fewest and more than
        one: by half as many numbers of components as it has, in its own stride, for all covariance types. Only the
        new candidates are fitted; with ``init_params='auto'`` their starts are searched for without the others, so
        that they may end elsewhere than in a search that has the whole grid at first. It ends when the winner lies
        inside the grid, when no new candidate can be trusted, or at as many components as there are rows.
    resamples : int, default=0
        Number of Poisson-weighted resamples of the rows that the best fit of each candidate is fitted to again, from
        its own parameters; 0 for none. All share each read. They show how sure the choice is: ``stability``, ``wins``
        and ``delta_error`` of ``results_``, and the standard errors of the winner. 50 to 200 are usual. Each row's
        weights follow from the seed and its position, as of ``held_out``.
    prior : {None, 'default'}, default=None
        As in :class:`GaussianMixture`.
    noise : bool, float or iterable of bool, default=False
        As in :class:`GaussianMixture`, for all candidates; ``[False, True]`` has each without and with noise, so that
        the criterion decides.
    missing : {'error', 'likelihood'}, default='error'
        As in :class:`GaussianMixture`. 'likelihood' takes no ``noise``, no ``resamples`` and no
        ``inference='variational'``.
    feature_dims : str or iterable of str, default=None
        As in :class:`GaussianMixture`.
    verbose : int, default=0
        1 prints the numbers of candidates and starts, every ``verbose_interval`` iterations, how the fits end, and the
        winner; 2 adds what the search for starts does, each fit's end, the lower bounds and the seconds.
    verbose_interval : int, default=10

    Attributes
    ----------
    best_estimator_ : GaussianMixture or BayesianGaussianMixture
        The winner, fitted.
    best_params_ : dict
        Its ``n_components`` and ``covariance_type``, and ``noise`` where candidates have it.
    criterion_ : str
        The criterion that chose.
    results_ : pandas.DataFrame
        One row per candidate, described by its best start, with the columns

        - n_components, covariance_type, noise;
        - status: see :class:`gmm_dask.em.status.Status`;
        - bic, aic, icl, elbo, held_out: the criteria; NaN where no rows are held out, or of another inference;
        - delta, after bic: the search's criterion minus the smallest; NaN where a candidate may not win;
        - log_likelihood: total over the fitted rows;
        - held_out_log_likelihood: mean per held-out row;
        - held_out_error: standard error of the difference of held_out to the smallest, over the same rows;
        - n_parameters, n_iter;
        - slim_component, slim_gain, slim_price: of the components that are far narrower than the others and have few
          rows, the one that raises the log-likelihood least, by how much, and by how much it has to (see
          :func:`gmm_dask.em.spurious.least_gain`), numbered by weight, the largest being 0; -1 and NaN where there is
          none;
        - start: number of the best start;
        - starts, untrusted, agreed, spread, agreeing: how the starts compare, see
          :class:`gmm_dask.selection.diagnostics.Agreement`;
        - refits, stability, wins, delta_error: what the fits to resamples say, see
          :class:`gmm_dask.selection.stability.Stability`; 0 and NaN without resamples.
    weights_error_ : ndarray of shape (n_components,)
        Standard errors of the winner's weights, where there are resamples: the standard deviations over the fits to
        them.
    means_error_ : ndarray of shape (n_components, n_features)
        Those of its means, in the units of X.
    remarks_ : list of str
        Reasons to doubt the choice: the winner is on the edge of the grid, fewer components do as well, or its starts
        disagree.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        Where X has column names that are strings.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **FIT_CONSTRAINTS,
        "n_components": [at_least(1), "array-like", range],
        "covariance_types": [one_of((*NAMES, MCLUST)), "array-like"],
        "criterion": [one_of(CRITERIA), None],
        "inference": [one_of(INFERENCES)],
        "prior": [one_of(PRIORS), None],
        "max_iter": [at_least(1)],
        "held_out": [below_one()],
        "extend": ["boolean"],
        "resamples": [at_least(0)],
        "noise": ["boolean", above(0.0), "array-like"],
        "missing": [one_of(MISSING)],
    }

    def __init__(
        self,
        n_components: int | Iterable[int] = range(1, 10),
        covariance_types: str | Iterable[str] = DEFAULT_TYPES,
        *,
        criterion: str | None = None,
        inference: str = "em",
        n_init: int = 1,
        init_params: str = "auto",
        tol: float = 1e-3,
        max_iter: int = 100,
        reg_covar: float | str = AUTO,
        random_state: Any = None,
        accelerate: bool = False,
        start_effort: float = 1.0,
        held_out: float = 0.0,
        extend: bool = False,
        resamples: int = 0,
        noise: bool | float | Iterable[bool] = False,
        prior: str | None = None,
        missing: str = REFUSED,
        feature_dims: str | Iterable[str] | None = None,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.covariance_types = covariance_types
        self.criterion = criterion
        self.inference = inference
        self.n_init = n_init
        self.init_params = init_params
        self.tol = tol
        self.max_iter = max_iter
        self.reg_covar = reg_covar
        self.random_state = random_state
        self.accelerate = accelerate
        self.start_effort = start_effort
        self.held_out = held_out
        self.extend = extend
        self.resamples = resamples
        self.noise = noise
        self.prior = prior
        self.missing = missing
        self.feature_dims = feature_dims
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit all candidates and choose.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            As in :meth:`GaussianMixture.fit`.
        y : None
            Not used, present by convention.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, for the starts too, as in :meth:`GaussianMixture.fit`.

        Returns
        -------
        self : GaussianMixtureSearch

        Raises
        ------
        ValueError
            If a parameter, X or the weights are not usable, or if no candidate could be fitted.
        """
        check_parameters(self)
        criterion = self._check_criterion()
        noise, log_volume = noise_choices(self.noise)
        variational = self.inference if self.inference != INFERENCES[0] else None
        require_combinable(self.missing, noise=any(noise), resamples=self.resamples, inference=variational)
        candidates = check_candidates(self.n_components, self.covariance_types, noise)
        self._require_estimable(candidates)
        seed = sample_seed(self.random_state)
        rows = read_rows(self, X, sample_weight, reset=True, gaps=self._gaps)
        rows = hold_out(rows, self.held_out, seed)
        with one_blas_thread():
            data_summary = self._summarize(rows, seed)
            rows = data_summary.known(rows)
            settings = self._settings(data_summary)
            if any(noise):
                names = getattr(self, "feature_names_in_", None)
                settings = replace(settings, noise=noise_box(lambda: rows, data_summary, log_volume, names))
            printer = FitPrinter(self.verbose, self.verbose_interval)
            fit_some = partial(self._fit, rows, data_summary, settings, generator_copies(self.random_state), printer)
            evaluate = partial(evaluate_states, rows, data_summary, inference=settings.inference)
            states = fit_some(candidates)
            outcomes = evaluate(states)
            while (extension := self._extension(outcomes, criterion, data_summary.n_rows)).candidates:
                # all of them again, from one read: on held-out rows they are compared with each other
                states = [*states, *fit_some(extension.candidates)]
                outcomes = in_grid_order(evaluate(states))
            best = choose(outcomes, criterion)
            resampled = self._resample(rows, data_summary, settings, seed, outcomes, best.state.candidate, criterion)
        self.criterion_ = criterion
        self.results_ = results_table(outcomes, criterion, resampled.stability)
        if self.verbose:
            value = best.criteria[criterion]
            print(f"Winner: {best.state.candidate.name}, {CRITERIA[criterion].label} {value:.2f}")
        self._set_best(best, resampled, data_summary, settings)
        winner = next(row for row in self.results_.to_dict("records") if Candidate.of(row) == best.state.candidate)
        self.remarks_ = remarks(self.results_, criterion, winner, extension.stopped if self.extend else None)
        return self

    @property
    def _may_have_gaps(self) -> bool:
        return not (any(noise_choices(self.noise)[0]) or self.resamples or self.inference != INFERENCES[0])

    def _require_estimable(self, candidates: Sequence[Candidate]) -> None:
        """Raise :class:`UserError` for a covariance model that has no variational inference, or no prior."""
        names = [candidate.covariance_type for candidate in candidates]
        if self.inference != INFERENCES[0]:
            require_default_types(names, f"inference={self.inference!r}", "inference='em'")
        if self.prior is not None:
            require_default_types(names, f"prior={self.prior!r}", "prior=None")

    def _settings(self, data_summary: DataSummary) -> loop.Settings:
        return replace(
            super()._settings(data_summary), inference=inference_of(self.inference, data_summary, self.prior)
        )

    def _check_criterion(self) -> str:
        """Return the criterion's name; raises :class:`UserError` for parameters that do not go together."""
        known = criteria_of(self.inference == INFERENCES[0])
        criterion = known[0] if self.criterion is None else self.criterion
        if criterion not in known:
            raise UserError(
                f"criterion={criterion!r} is none of inference={self.inference!r}: leave it out, or take "
                f"{' or '.join(map(repr, known))}."
            )
        if CRITERIA[criterion].needs_held_out and not self.held_out:
            raise UserError(
                f"criterion={criterion!r} needs rows that are held out of the fits: pass their fraction, such as "
                "held_out=0.2."
            )
        if self.inference != INFERENCES[0]:
            for name in ("accelerate", "resamples", "noise", "prior"):
                value = getattr(self, name)
                if any(noise_choices(value)[0]) if name == "noise" else value:
                    raise UserError(f"{name}={value} is of no use with inference={self.inference!r}: leave it out.")
        return criterion

    def _fit(
        self,
        rows: Rows,
        data_summary: DataSummary,
        settings: loop.Settings,
        copies: Callable[[], RandomState],
        printer: FitPrinter,
        candidates: Sequence[Candidate],
    ) -> list[State]:
        """Fit all starts of some candidates."""
        starts = counted(len(candidates) * self.n_init, "start")
        printer.begin(f"{counted(len(candidates), 'candidate')}, {starts} by {self.init_params}")
        states = first_states(
            candidates,
            data_summary,
            init_params=self.init_params,
            n_init=self.n_init,
            random_state=copies,
            reg_covar=settings.reg_covar,
            inference=settings.inference,
            effort=self.start_effort,
            report=printer.note,
            rows=lambda: rows,
            noise_log_volume=None if settings.noise is None else settings.noise.log_volume,
        )
        states = fit_states(states, rows, data_summary, settings, printer.on_pass)
        printer.end(states)
        return states

    def _extension(self, outcomes: Sequence[Outcome], criterion: str, n_rows: int) -> GridExtension:
        if not self.extend:
            return GridExtension()
        best = choose(outcomes, criterion).state
        return extend_grid(list(by_candidate(outcomes)), best.candidate, best.status.trusted, n_rows)

    def _resample(
        self,
        rows: Rows,
        data_summary: DataSummary,
        settings: loop.Settings,
        seed: int,
        outcomes: Sequence[Outcome],
        winner: Candidate,
        criterion: str,
    ) -> ResampledSearch:
        """Fit each candidate's best fit again to each resample, and compare."""
        if not self.resamples:
            return ResampledSearch()
        if self.verbose:
            print(f"Fitting the candidates again to {self.resamples} resamples")
        best = [best_outcome(starts).state for starts in by_candidate(outcomes).values()]
        resampling = Resampling.of(rows, seed)
        found = summarize_resamples(rows, data_summary, resampling, self.resamples)
        refits = first_refits(best, found, settings)
        refits = resamples.run(refits, found, resampling, rows, data_summary, settings)
        return evaluate_refits(refits, found, resampling, rows, data_summary, best, winner, criterion)

    def _set_best(
        self, outcome: Outcome, resampled: ResampledSearch, data_summary: DataSummary, settings: loop.Settings
    ) -> None:
        state = outcome.state
        for name in ("weights_error_", "means_error_"):
            if hasattr(self, name):  # of an earlier fit
                delattr(self, name)
        if (errors := resampled.errors.get(state.candidate)) is not None:
            self.weights_error_, self.means_error_ = errors.weights, errors.means
        self.best_params_: dict[str, Any] = {
            "n_components": state.n_components,
            "covariance_type": state.covariance_type,
        }
        if settings.noise is not None:
            self.best_params_["noise"] = state.candidate.noise
        self.best_estimator_ = self._estimator(state, data_summary, settings)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(self.best_estimator_, name, getattr(self, name))
        if not state.status.trusted:
            message = f"No candidate can be trusted, and the winner is {state.status}: {state.status.remedy}"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        elif state.status is not Status.CONVERGED:
            warnings.warn(f"The winner did not converge: {state.status.remedy}", ConvergenceWarning, stacklevel=3)

    def _estimator(
        self, state: State, data_summary: DataSummary, settings: loop.Settings
    ) -> GaussianMixture | BayesianGaussianMixture:
        """Return the winner, with the settings of the search."""
        inference, weight = settings.inference, data_summary.total_weight
        kind = BayesianGaussianMixture if isinstance(inference, Variational) else GaussianMixture
        shared = kind().get_params().keys() & self.get_params().keys()
        estimator = kind(**{**{name: getattr(self, name) for name in shared}, **self.best_params_})
        if isinstance(estimator, BayesianGaussianMixture):
            assert isinstance(inference, Variational)
            estimator.tol = self.tol * weight  # its own is that of the total
            priors = inference.priors(state.model[0], state.n_components)
            estimator.weight_concentration_prior_type = priors.weight_concentration_type
            estimator.set_posterior(state, priors, weight)
        elif state.candidate.noise:
            estimator.set_params(noise=self.noise if noise_choices(self.noise)[1] is not None else True)
            estimator.set_fitted(state, settings.noise)
        else:
            estimator.set_params(noise=False)
            estimator.set_fitted(state)
        return estimator

    def to_sklearn(self) -> Any:
        """Return the winner as scikit-learn's estimator, as its own ``to_sklearn`` does."""
        check_is_fitted(self)
        return self.best_estimator_.to_sklearn()

    @property
    def _model(self) -> Model:
        return self.best_estimator_._model

    @property
    def _noise_box(self) -> Box | None:
        return self.best_estimator_._noise_box
