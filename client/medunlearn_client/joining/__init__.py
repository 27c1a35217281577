"""A hospital's side of joining: its folder, the roster, new keys, leaving."""
