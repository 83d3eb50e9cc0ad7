"""The configuration of a job: one YAML file, its sections as frozen models, and the reference made from them."""
