from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer_bridge.dataset.ordinary import COUNT, ordinary_caption


@given(st.integers(0, 2**32 - 1), st.integers(0, COUNT - 1))
def test_a_caption_is_decided_by_seed_and_number_and_names_no_tag_twice(seed: int, number: int) -> None:
    caption = ordinary_caption(seed, number)
    assert caption == ordinary_caption(seed, number)
    tags = caption.split(", ")
    assert len(tags) == len(set(tags))
    colours = [tag for tag in tags if tag.endswith(" hair") and tag.split()[0] in ("red", "blue", "green", "white")]
    assert len(colours) <= 1


def test_a_run_has_different_captions_that_cover_the_words() -> None:
    captions = [ordinary_caption(42, number) for number in range(COUNT)]
    assert len(set(captions)) > COUNT * 0.9
    words = {tag for caption in captions for tag in caption.split(", ")}
    assert {"red hair", "blue hair", "smile", "glasses", "night sky"} <= words
