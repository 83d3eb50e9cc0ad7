"""One EM iteration over rows in memory, by scikit-learn and by gmm-dask in alternation, beside what the machine can do.

First the machine's rates are measured: fused multiply-adds in registers, NumPy's matrix product, a copy in memory. The
floor of an iteration is its 4 P K operations a row (P columns of the feature map, K components) at the rate of the
multiply-adds, one nanosecond for each exponential, divided over the cores; or the time to read the rows, if that is
more. The share of the floor says how near a pass comes to it.

    python benchmarks/kernels.py            # the table of the README, about four minutes
    python benchmarks/kernels.py --short    # half a minute
    python benchmarks/kernels.py --large    # gmm-dask alone: the rates with 64 and with 1,024 components, three minutes
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np
import sklearn
from llvmlite import ir
from machine import describe_machine
from numba import types
from numba.core import cgutils
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from gmm_dask.families import Family, Parameters, Statistics, get_family
from gmm_dask.kernels.compilation.jit import compiled
from gmm_dask.kernels.llvm.vectors import INDEX, Lanes, inlined, matrices
from gmm_dask.passes.data_summary import summarize_rows
from gmm_dask.passes.map_reduce import one_blas_thread
from gmm_dask.passes.rows import as_rows
from gmm_dask.passes.statistics import collect_statistics

EXPONENTIAL = 1e-9  # seconds of one, on one core
CORES = os.cpu_count() or 1
REST = 0.5  # seconds until the other side's threads, which wait for more work at full speed, have gone to sleep


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    rows: int
    features: int
    components: int
    covariance_type: str = "full"
    dtype: str = "float64"

    @property
    def columns(self) -> int:
        """Columns of the feature map that the type needs."""
        columns = get_family(self.covariance_type).fit_columns(self.features)
        return columns.stop - columns.start


CASES = [
    Case(500_000, 2, 3),
    Case(500_000, 8, 10),
    Case(200_000, 32, 16),
    Case(50_000, 128, 16),
    *(Case(200_000, 32, 16, name) for name in ("tied", "diag", "spherical")),
    Case(50_000, 128, 16, "tied"),
    Case(200_000, 32, 16, dtype="float32"),
    Case(50_000, 128, 16, dtype="float32"),
    Case(1_000, 4, 3),
]


@dataclass(frozen=True)
class Rates:
    """Of the whole machine: multiply-adds by precision and products in operations a second, bytes copied a second."""

    multiply_add: dict[str, float]
    product: dict[str, float]
    copy: float

    def floor(self, case: Case) -> float:
        """Seconds a row that the machine needs at least."""
        operations = 4 * case.columns * case.components / self.multiply_add[case.dtype]
        arithmetic = operations + case.components * EXPONENTIAL / CORES
        return max(arithmetic, case.features * np.dtype(case.dtype).itemsize / self.copy)

    def __str__(self) -> str:
        lines = [
            f"{name}: fused multiply-adds {self.multiply_add[name] / 1e9:.0f}, NumPy's product "
            f"{self.product[name] / 1e9:.0f} Gflop/s on {CORES} cores"
            for name in self.product
        ]
        return "\n".join([*lines, f"copying {self.copy / 1e9:.0f} GB/s"])


def best_of(repeats: int, function: Callable[[], Any]) -> float:
    """Seconds of the fastest call."""
    function()
    return min(_seconds(function) for _ in range(repeats))


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


CHAINS, STEPS = 20, 2_000_000


@inlined
def _multiply_add_chains(typing: Any, x: Any) -> Any:
    """As many independent chains of multiply-adds as hide their latency."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        [x], _ = matrices(context, builder, signature, args)
        lanes, start = Lanes(builder, x.scalar), ir.Constant(INDEX, 0)
        factor = lanes.load(x.at(start, start))
        chains = [lanes.variable(lanes.load(x.at(start, ir.Constant(INDEX, i)))) for i in range(CHAINS)]
        with cgutils.for_range(builder, ir.Constant(INDEX, STEPS)):
            for chain in chains:
                builder.store(lanes.multiply_add(builder.load(chain), factor, factor), chain)
        for i, chain in enumerate(chains):
            lanes.store(builder.load(chain), x.at(start, ir.Constant(INDEX, i * lanes.width)))
        return context.get_dummy_value()

    return types.void(x), code


@compiled
def multiply_adds(x: np.ndarray) -> None:
    _multiply_add_chains(x)


def measure_rates() -> Rates:
    """What the machine can do; the product with as many threads as NumPy takes."""
    multiply_add, product = {}, {}
    for name in ("float64", "float32"):
        x = np.linspace(0.1, 0.5, CHAINS * 64 // 4).astype(name)
        operations = 2 * CHAINS * STEPS * 64 // x.itemsize
        seconds = best_of(5, lambda x=x: multiply_adds(x))
        multiply_add[name] = CORES * operations / seconds
        a = np.full((1500, 1500), 0.5, name)
        product[name] = 2 * 1500**3 / best_of(5, lambda a=a: a @ a)
    memory = np.ones(1 << 25)
    target = np.empty_like(memory)
    return Rates(multiply_add, product, memory.nbytes / best_of(5, lambda: np.copyto(target, memory)))


def make_rows(case: Case) -> np.ndarray:
    """Overlapping clusters with correlated features."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(case.features, case.features)) / np.sqrt(4 * case.features) + np.eye(case.features)
    centers = rng.normal(scale=1.0, size=(case.components, case.features))
    labels = rng.integers(case.components, size=case.rows)
    return (rng.normal(size=(case.rows, case.features)) @ mixing + centers[labels]).astype(case.dtype)


def peer_of(case: Case, X: np.ndarray) -> GaussianMixture:
    """scikit-learn's mixture after a start from random rows and one iteration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(
            case.components,
            covariance_type=case.covariance_type,
            init_params="random_from_data",
            max_iter=2,
            reg_covar=1e-3,
            random_state=0,
        ).fit(X)


def our_iteration(case: Case, X: np.ndarray, peer: GaussianMixture) -> Callable[[], Any]:
    """One pass and one M-step from the peer's parameters."""
    family = get_family(case.covariance_type)
    parameters = family.parameters(
        *(np.asarray(part, dtype=np.float64) for part in (peer.weights_, peer.means_, peer.covariances_))
    )
    collect = our_pass(X, family, parameters)
    return lambda: family.maximise(collect(), 1e-3)


def our_pass(X: np.ndarray, family: Family, parameters: Parameters) -> Callable[[], Statistics]:
    rows = as_rows(X)
    data_summary = summarize_rows(rows, 0)
    return lambda: collect_statistics(rows, data_summary, [(family, parameters)])[0]


def peers_iteration(X: np.ndarray, peer: GaussianMixture) -> Callable[[], Any]:
    def iterate() -> None:
        _, log_resp = peer._e_step(X)
        peer._m_step(X, log_resp)

    return iterate


@dataclass(frozen=True)
class Measured:
    """Seconds of an iteration: scikit-learn's, ours, ours in one thread."""

    theirs: float
    ours: float
    single: float


def measure(case: Case, repeats: int) -> Measured:
    """The fastest of some iterations, made in turns."""
    X = make_rows(case)
    peer = peer_of(case, X)
    theirs, ours = peers_iteration(X, peer), our_iteration(case, X, peer)
    calls = max(3, int(2e5 / case.rows))  # short ones several times
    found: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):  # the first round compiles
        seconds = [best_of_calls(theirs, calls)]
        with one_blas_thread():
            seconds.append(best_of_calls(ours, calls))
            with dask.config.set(scheduler="threads", num_workers=1):
                seconds.append(best_of_calls(ours, calls))
        found.append(tuple(seconds))
    return Measured(*(min(column) for column in zip(*found[1:], strict=True)))


def best_of_calls(function: Callable[[], Any], calls: int) -> float:
    time.sleep(REST)
    return min(_seconds(function) for _ in range(calls))


def line(case: Case, found: Measured, rates: Rates) -> str:
    cells = (
        f"{case.rows:,}",
        f"{case.features}, {case.components}",
        case.covariance_type,
        case.dtype,
        f"{found.theirs / case.rows * 1e9:,.0f}",
        f"{found.ours / case.rows * 1e9:,.1f}",
        f"{found.theirs / found.ours:.1f}",
        f"{rates.floor(case) * case.rows / found.ours:.2f}",
        f"{found.single / found.ours:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def _processor_seconds(function: Callable[[], Any]) -> float:
    """Those of all threads together, in which the time of other programs does not count."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def pass_at_random(case: Case) -> Callable[[], Any]:
    """One pass from means that are rows; in float32 for data in float32, which the variances are large enough for."""
    X, family = make_rows(case), get_family(case.covariance_type)
    shape = family.covariance_shape(case.components, case.features)
    covariances = np.broadcast_to(4 * np.eye(case.features), shape).copy() if len(shape) == 3 else np.full(shape, 4.0)
    weights = np.full(case.components, 1 / case.components)
    return our_pass(X, family, family.parameters(weights, X[: case.components].astype(float), covariances))


def compare_numbers_of_components() -> None:
    """Print the rates of each core in passes with few and with many components, made in turns."""
    print("| type | dtype | K = 64, Gflop/s | K = 1,024, Gflop/s | ratio |\n" + "|---" * 5 + "|")
    for name, dtype in itertools.product(("spherical", "diag", "full"), ("float64", "float32")):
        cases = [Case(8_192 if name == "full" else 65_536, 128, k, name, dtype) for k in (64, 1024)]
        passes = [pass_at_random(case) for case in cases]
        with one_blas_thread():
            seconds = np.min([[_processor_seconds(collect) for collect in passes] for _ in range(4)], axis=0)
        few, many = (4 * c.columns * c.components * c.rows / s / 1e9 for c, s in zip(cases, seconds, strict=True))
        print(f"| {name} | {dtype} | {few:.0f} | {many:.0f} | {many / few:.2f} |", flush=True)


HEAD = (
    "| rows | D, K | type | dtype | scikit-learn, ns a row | gmm-dask, ns a row | ratio | share of the floor "
    f"| {CORES} threads over 1 |\n" + "|---" * 9 + "|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a quarter of the rows, twice instead of five times")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the table's lines, from 0")
    parser.add_argument("--large", action="store_true", help="passes with few and with many components instead")
    arguments = parser.parse_args()
    print(f"{describe_machine()}; scikit-learn {sklearn.__version__}")
    if arguments.large:
        compare_numbers_of_components()
        return
    rates = measure_rates()
    print(f"{rates}\n\n{HEAD}")
    for i, case in enumerate(CASES):
        if arguments.only is not None and i not in arguments.only:
            continue
        if arguments.short and case.rows > 10_000:
            case = replace(case, rows=case.rows // 4)
        print(line(case, measure(case, 2 if arguments.short else 5), rates), flush=True)


if __name__ == "__main__":
    main()
