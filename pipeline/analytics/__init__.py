"""Counts, dwell times, speeds and alarms from the host's compact results: the same code behind both engines."""
