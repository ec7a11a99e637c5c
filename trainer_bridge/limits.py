"""Every bound on what comes from outside, declared once.

A bound stands here when a hostile or mistaken input could otherwise cost unbounded memory, disk or time.
"""

from __future__ import annotations

MIN_PICTURES = 3
MAX_PICTURES = 1_000
MAX_PICTURE_BYTES = 100 * 1024 * 1024
MAX_PICTURE_PIXELS = 100_000_000
MAX_PICTURE_SIDE = 32_768
MAX_CAPTION_CHARS = 4_000
MAX_CAPTION_BYTES = 64 * 1024
MAX_FOLDER_ENTRIES = 200_000

MAX_NAME_CHARS = 100
MAX_TRIGGER_CHARS = 60
MAX_PROMPT_CHARS = 4_000

MAX_HEADER_BYTES = 32 * 1024 * 1024
MAX_HEADER_MARKS = 500_000
MAX_HEADER_TENSORS = 50_000
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 64 * 1024

MIN_FREE_DISK_BYTES = 64 * 1024 * 1024
#: Latents and text features that later runs may use again; the oldest go first.
MAX_CACHE_BYTES = 4 * 1024**3
