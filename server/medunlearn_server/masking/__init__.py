"""The coordinator's side of masked sums: ``session`` and ``opening`` are pure, ``leader`` asks."""
