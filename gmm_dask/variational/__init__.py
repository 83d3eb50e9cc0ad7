"""Variational Bayesian mixtures: posteriors in place of parameters (Bishop 2006, section 10.2)."""
