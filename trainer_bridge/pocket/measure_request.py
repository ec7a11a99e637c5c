"""Asks the measuring process for picture features: the demo itself imports no torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RunFailed
from .proof import Features, Labels


@dataclass(frozen=True)
class Reading:
    """What the probe makes of some sets of pictures, by name of the set.

    Attributes:
        features: [pictures, 192] fp32.
        labels: [pictures, attributes], the class of each attribute.
    """

    features: Mapping[str, Features]
    labels: Mapping[str, Labels]


def read_pictures(sets: Mapping[str, Sequence[Path]]) -> Reading:
    """Read sets of pictures with the probe.

    Raises:
        RunFailed: the probe could not read the pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "features.npz"
        request = {"sets": {key: [str(path) for path in paths] for key, paths in sets.items()}, "out": str(answer)}
        command = [sys.executable, "-m", "trainer_bridge.pocket.make.measure"]
        process = subprocess.run(command, input=json.dumps(request), text=True, encoding="utf-8", check=False)
        if process.returncode != 0:
            raise RunFailed("The probe could not read the pictures.", "The lines above say why.")
        with np.load(answer, allow_pickle=False) as arrays:
            return Reading(
                features={key: arrays[f"{key}.features"] for key in sets},
                labels={key: arrays[f"{key}.labels"] for key in sets},
            )
