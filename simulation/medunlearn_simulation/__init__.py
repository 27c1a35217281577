"""Whole federations on one machine: the only package that imports both sides."""
