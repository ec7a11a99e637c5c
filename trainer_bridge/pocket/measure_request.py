"""Asks the measuring process for picture features: the demo itself imports no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import RunFailed
from .proof import Features


def features_of(sets: Mapping[str, Sequence[Path]]) -> dict[str, Features]:
    """Return the probe's features of each set of pictures, [pictures, features] in fp32.

    Raises:
        RunFailed: the probe could not read the pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "features.npz"
        request = {
            "sets": {key: [str(path) for path in paths] for key, paths in sets.items()},
            "out": str(answer),
        }
        command = [sys.executable, "-m", "trainer_bridge.pocket.make.measure"]
        process = subprocess.run(command, input=json.dumps(request), text=True, encoding="utf-8", check=False)
        if process.returncode != 0:
            raise RunFailed("The probe could not read the pictures.", "The lines above say why.")
        with np.load(answer, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in sets}
