#!/usr/bin/env python3
"""`python run_pipeline.py CONFIG.yaml [options]`: the command `vramline run`, from a checkout without installing it.

The other commands work too: `python run_pipeline.py doctor`.
"""

from pipeline.cli.main import main

if __name__ == "__main__":
    main(default_command="run")
