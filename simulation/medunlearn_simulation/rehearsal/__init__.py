"""A whole federation of real processes on one machine, each party in a network of its own."""
