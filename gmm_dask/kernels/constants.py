"""Numbers that compiled kernels share with the modules that call them; NumPy alone, so that reading them is cheap."""

from __future__ import annotations

import numpy as np

# the covariance types that compiled fits know: see gmm_dask.kernels.m_step
FULL, TIED, DIAG, SPHERICAL = range(4)
# what their covariances have in common: see gmm_dask.kernels.parsimonious
UNCONSTRAINED, EII, EEI, VEI, EVI, VEE, EVE, VVE, EEV, VEV, EVV = range(11)
# iterations within an M-step, which end when no volume changes by more, relatively, and no axis turns by more. Linear
# convergence takes tens of iterations on data, and thousands only where a covariance is all but singular
INNER_ITERATIONS, INNER_TOLERANCE = 10_000, 1e-11
# how an M-step ends: without covariances of the model, with them, or at the bound of the iterations that find them
UNSOUND, SETTLED, UNSETTLED = range(3)
# how a compiled fit ends; after the last it goes on in double precision from the parameters that it leaves
CONVERGED, MAX_ITER, SINGULAR, FAILED, INNER_MAX_ITER, NEEDS_DOUBLE = range(6)
# places of the numbers of a prior, as compiled fits take it: the rows that the prior of a mean counts as; the numbers
# that each row of a component tells of its covariance, and those that the prior of a covariance counts as; what the
# prior of the weights adds to the rows of each component, and whether it is a Dirichlet process; the rows of all
# components. The mean and the scale of the covariances follow
MEAN_PRECISION, PER_ROW, COUNTED, CONCENTRATION, IS_PROCESS, TOTAL, PRIOR_HEADER = range(7)
# whether a mixture is spurious by its parameters
SOUND, SPURIOUS, UNDECIDED = range(3)

LOG_2PI = float(np.log(2.0 * np.pi))
# scikit-learn adds this to every component's weight so that an empty one divides by something
NK_FLOOR = 10.0 * float(np.finfo(np.float64).eps)
# a mean is off by up to about two ulps: one of the product and one of the sum that it is computed from
ROUNDING = 4.0
# noise of no weight has no part in any row; the Gaussians that it leaves nothing to have weights with a logarithm
TINY, LEAST_WEIGHT = float(np.finfo(np.float64).tiny), 1e-300
# the squares of larger numbers, and their sums, may overflow
LARGEST = 1e150
# an extrapolated point that is no mixture is tried again at a quarter of the distance, this many times in all
TRIES = 3
