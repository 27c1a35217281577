"""What a hospital does with a finished adapter: verify, measure, decide, put into service."""
