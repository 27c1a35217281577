"""Masked sums: what both sides share (docs/protocol-masking.md)."""
