"""A hospital's side of masked sums: see ``hospital`` (messages) and ``journal`` (durability)."""
