"""A job: seed the candidates, fit them in waves, choose one, and resume where a run was stopped."""
