"""What runs inside a hospital: the only package that opens patient data."""
