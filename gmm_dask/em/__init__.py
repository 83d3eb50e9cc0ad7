"""Expectation-maximisation over sufficient statistics, whatever collects them."""
