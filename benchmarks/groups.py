"""A search for each of many groups, in one job, beside a loop of scikit-learn over some of the groups.

Each group is of 2,000 rows and 4 columns, with 1 to 4 components; K = 1 to 5 and four covariance types are fitted, one
k-means start each. The job is a process of its own: its seconds include the imports, the read and the labels of the
rows. scikit-learn's loop is of the same candidates, with the threads that it takes by itself, and with one. Both are
given as wall-clock and as processor seconds, which other work on the machine changes less; the winners of the groups
of the loop are compared, too.

    python benchmarks/groups.py                       # 1,000 groups; some minutes
    python benchmarks/groups.py --groups 100 --loop 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from machine import describe_machine
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

ROWS, COLUMNS = 2000, ["a", "b", "c", "d"]
TYPES = ("full", "tied", "diag", "spherical")
JOB = """
import json, resource, sys, time
from pipeline.config.job import load_config
from pipeline.fit.job import run
begin = time.perf_counter()
summary = run(load_config(sys.argv[1], sys.argv[2:]))
usage = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "seconds": time.perf_counter() - begin,
    "processor": sum(one.ru_utime + one.ru_stime for one in usage),
    "peak": usage[0].ru_maxrss / 1024,
    "statuses": summary.statuses,
    "best": {row["group"]: row["best"] for row in summary.overview.to_dict("records")},
}))
"""


def rows_of(group: int) -> NDArray[np.float64]:
    """The rows of a group."""
    random = np.random.default_rng(group)
    k = int(random.integers(1, 5))
    means, scales = 3.0 * random.normal(size=(k, 4)), random.uniform(0.5, 1.3, size=(k, 4))
    label = random.integers(k, size=ROWS)
    return means[label] + scales[label] * random.normal(size=(ROWS, 4))


def write_rows(path: Path, n_groups: int) -> None:
    """Write all groups in mixed order."""
    frames = [pd.DataFrame(rows_of(group), columns=COLUMNS).assign(store_id=group) for group in range(n_groups)]
    pd.concat(frames).sample(frac=1.0, random_state=0).to_parquet(path, index=False, row_group_size=100_000)


def run_job(folder: Path, cluster: str, init_params: str) -> dict[str, object]:
    """Run the job in a process of its own."""
    config = folder / "job.yaml"
    config.write_text(
        f"data: {{source: {folder}/rows.parquet, by: store_id, columns: [a, b, c, d]}}\n"
        f"search: {{n_components: {{min: 1, max: 5}}, init_params: {init_params}}}\n"
        f"cluster: {cluster}\n"
        f"output: {{store: {folder}/{cluster.split()[1].strip(',}')}.zarr}}\n"
    )
    words = [sys.executable, "-c", JOB, str(config)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ}, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def loop(groups: range, n_threads: int | None) -> tuple[float, float, dict[str, str]]:
    """Fit the candidates to some groups, one after another; returns both kinds of seconds a group, and the winners."""
    best = {}
    begin, processor = time.perf_counter(), time.process_time()
    with nullcontext() if n_threads is None else threadpool_limits(n_threads):
        for group in groups:
            x, found = rows_of(group), {}
            for name in TYPES:
                for k in range(1, 6):
                    mixture = GaussianMixture(k, covariance_type=name, random_state=0).fit(x)
                    found[f"{name}-k{k}"] = mixture.bic(x)
            best[str(group)] = min(found, key=lambda one: found[one])
    seconds = time.perf_counter() - begin, time.process_time() - processor
    return seconds[0] / len(groups), seconds[1] / len(groups), best


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=10, help="groups of scikit-learn's loop")
    parser.add_argument("--init", default="kmeans")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.parquet", options.groups)
        sides = {
            "scikit-learn, as it is": loop(range(options.loop), None),
            "scikit-learn, one thread": loop(range(options.loop), 1),
        }
        workers = f"{{kind: local, workers: {os.cpu_count()}, threads_per_worker: 1}}"
        for title, cluster in (("threads", "{kind: threads}"), ("worker processes", workers)):
            found = run_job(folder, f"{cluster}", options.init)
            wall, processor = (float(found[key]) / options.groups for key in ("seconds", "processor"))  # type: ignore[arg-type]
            print(f"data.by, {title}: {1e3 * wall:.1f} ms a group, {1e3 * processor:.1f} ms of processors, ", end="")
            print(f"{found['seconds']:.0f} s in all, peak of the driver {found['peak']:.0f} MiB, {found['statuses']}")
            for other, (seconds, of_processors, best) in sides.items():
                same = sum(found["best"][group] == winner for group, winner in best.items())  # type: ignore[index]
                print(f"  {other}: {seconds / wall:.1f} times as long ({1e3 * seconds:.0f} ms a group), ", end="")
                print(f"{of_processors / processor:.1f} times the processors; {same} of {len(best)} winners the same")


if __name__ == "__main__":
    main()
