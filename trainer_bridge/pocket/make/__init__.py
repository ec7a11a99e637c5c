"""Scripts that draw, train and probe the pocket base (these import torch and skia)."""
