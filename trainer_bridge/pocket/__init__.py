"""The pocket base: a tiny SD1-layout checkpoint and what draws, trains and probes it."""
