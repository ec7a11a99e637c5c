"""Contracts and orchestration of Atelier's trainer.

Everything directly in this package runs on the standard library alone, since a WebUI imports it with the
packages that the WebUI has. The training itself lives in :mod:`trainer_bridge.engine`, a process of its own.
"""

__version__ = "0.1.0"
