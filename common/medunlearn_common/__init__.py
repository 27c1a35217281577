"""Types and rules that hospitals and the coordinator share."""

__version__ = "0.1.0"
