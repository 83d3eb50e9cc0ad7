"""Transforms of the columns before the fit, one a module, and the chain of those of a job."""

from pipeline.transforms.chain import NO_TRANSFORM, TRANSFORMS, Chain

__all__ = ["NO_TRANSFORM", "TRANSFORMS", "Chain"]
