"""From a folder of pictures to what a run trains on: import, captions, buckets, order.

Pillow and numpy may be imported here besides the standard library, torch may not; `captions`, `buckets`, `order`
and `manifest` run on the standard library alone.
"""
