"""Building the stages from the configuration; threads, life cycle, errors, shutdown."""
