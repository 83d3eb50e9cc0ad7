"""Formats of data, one per module; :mod:`pipeline.config.formats` lists them."""
