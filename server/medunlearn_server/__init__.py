"""What the coordinator runs: it sees sums of noised vectors and never a record."""
