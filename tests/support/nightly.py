"""A job with a date in its store."""

from pipeline.config.job import JobConfig
from prefects import STORE


def nightly_job(folder, **sections):
    values = {
        "name": "night",
        "data": {"source": str(folder / "rows.npy")},
        "search": {"n_components": [2, 3], "covariance_types": ["diag"], "init_params": "kmeans"},
        "output": {"store": f"{folder}/{STORE}", "report": False},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return JobConfig.model_validate(values)
