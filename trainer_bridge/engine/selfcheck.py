"""Run once by the installer in a new environment: do torch and the libraries work together here?

`python -m trainer_bridge.engine.selfcheck` prints one JSON object; an exception is the answer "no".
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Import the trainer, set the device up, multiply two matrices, write and read a file of tensors."""
    import diffusers
    import safetensors.torch
    import torch
    import transformers
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from PIL import Image  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    from . import device, loop, sample  # noqa: F401

    device.prepare(device.choose(), 1)
    left = torch.arange(12.0).reshape(3, 4)
    product = left @ left.T
    assert product[0].tolist() == [14.0, 38.0, 62.0], "this torch multiplies wrongly"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.safetensors"
        safetensors.torch.save_file({"x": product.half()}, path, metadata={"made": "here"})
        assert torch.equal(safetensors.torch.load_file(path)["x"], product.half()), "a file came back changed"
    mps = getattr(torch.backends, "mps", None)
    answer = {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.cuda.is_available(),
        "mps": mps is not None and mps.is_available(),
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
