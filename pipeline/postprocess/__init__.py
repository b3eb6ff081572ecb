"""From a model's outputs to results in display coordinates."""
