"""Models and clips that cards describe: fetching, verifying, converting."""
