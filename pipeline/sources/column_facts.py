"""The columns of the data, as pass 0 found them: what a report and ``gmm-dask validate --profile`` show of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmm_dask.formatting import decimals, number
from gmm_dask.passes.resolution import Resolution


@dataclass(frozen=True)
class ColumnFacts:
    """A column of the data.

    Attributes
    ----------
    name : str
    minimum, maximum, mean, deviation : float
        Over the usable rows.
    step : float
        What the values are rounded to; 0 where they are not.
    ties : float
        Share of the sample's rows whose value another one has.
    frequent, frequent_share : float
        The most frequent value, and its share.
    missing : int
        Values that are missing or infinite.
    """

    name: str
    minimum: float
    maximum: float
    mean: float
    deviation: float
    step: float
    ties: float
    frequent: float
    frequent_share: float
    missing: int

    def text(self, value: float) -> str:
        """Return a value of the column with the decimals that its standard deviation calls for."""
        return number(value, decimals(self.deviation))

    @property
    def step_text(self) -> str:
        """The step; empty where there is none."""
        return f"{self.step:.3g}" if self.step else ""

    @property
    def ties_text(self) -> str:
        """The share of ties."""
        return f"{self.ties:.0%}"

    @property
    def frequent_text(self) -> str:
        """The most frequent value; empty where none repeats."""
        return f"{self.frequent:.6g}" if self.ties else ""

    @property
    def frequent_share_text(self) -> str:
        """Its share; empty where none repeats."""
        return f"{self.frequent_share:.1%}" if self.ties else ""


def column_facts(columns: Sequence[str], contents: Mapping[str, Any], missing: Mapping[str, Any]) -> list[ColumnFacts]:
    """Return the facts of all columns.

    Parameters
    ----------
    columns : sequence of str
    contents : mapping
        As :func:`pipeline.sources.fingerprint.contents_of` has it.
    missing : mapping
        As :func:`pipeline.sources.preparation.missing_of` has it.
    """
    resolution = Resolution.from_dict(contents["resolution"])
    return [
        ColumnFacts(
            name=name,
            minimum=contents["minima"][i],
            maximum=contents["maxima"][i],
            mean=contents["means"][i],
            deviation=contents["deviations"][i],
            step=float(resolution.step[i]),
            ties=float(resolution.ties[i]),
            frequent=float(resolution.frequent[i]),
            frequent_share=float(resolution.frequent_share[i]),
            missing=missing["columns"].get(name, 0),
        )
        for i, name in enumerate(columns)
    ]
