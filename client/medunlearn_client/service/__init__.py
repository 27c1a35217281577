"""A hospital's service: the supervised Flower node and the worker that holds model and data."""
