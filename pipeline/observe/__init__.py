"""What a person and a log see: status, progress, summary."""
