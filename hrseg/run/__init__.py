"""Runs: trainer, folder, config.yaml, launchers, and `hrseg.fit`."""
