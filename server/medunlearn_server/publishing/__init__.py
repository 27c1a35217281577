"""A finished run is attested, handed to every hospital, and what they say of it is kept."""
