"""The coordinator's side of joining: founding a federation, inviting, enrolling, revoking."""
