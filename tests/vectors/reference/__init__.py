"""A whole training run of a job file in PyTorch, by the rules that the worker for PyTorch has."""
