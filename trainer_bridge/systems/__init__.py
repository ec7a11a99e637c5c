"""What each operating system has to be asked in its own way. Only :mod:`trainer_bridge.platform` imports these."""
