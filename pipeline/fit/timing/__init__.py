"""How long a job takes: a row, a pass measured on a chunk, and the time that is left."""
