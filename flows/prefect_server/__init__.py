"""The Prefect server of a run: which one it is, the embedded one, and one that does not answer for a while."""
