"""The attribute probe: small, and right on pictures that it was not trained on."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("torch")
pytest.importorskip("skia")

from trainer_bridge.pocket.make import labels  # noqa: E402
from trainer_bridge.pocket.make.draw import portrait  # noqa: E402
from trainer_bridge.pocket.make.probe import accuracy  # noqa: E402
from trainer_bridge.pocket.make.probe_net import WEIGHTS, features, read  # noqa: E402


def test_it_reads_the_generators_own_pictures() -> None:
    drawn = [portrait(4711, i) for i in range(96)]
    seen = read(np.stack([picture for picture, _ in drawn]))
    right = accuracy([look for _, look in drawn], seen, prompted_only=False)
    assert right["mean"] >= 0.97
    assert min(right.values()) >= 0.88
    assert WEIGHTS.stat().st_size < 2_000_000


def test_it_reads_larger_pictures_alike() -> None:
    from trainer_bridge.pocket.make.draw import paint

    look = labels.sample_look(np.random.default_rng(4))
    small = paint(look, np.random.default_rng(5), 128)
    large = paint(look, np.random.default_rng(5), 192)
    assert read(small[None]) == read(large[None])


def test_features_are_nearer_within_a_subject_than_between_two() -> None:
    looks = [labels.sample_look(np.random.default_rng(i)) for i in (1, 2)]
    from trainer_bridge.pocket.make.draw import paint

    sets = [features(np.stack([paint(k, np.random.default_rng(n)) for n in range(4)])) for k in looks]
    within = np.linalg.norm(sets[0][:2].mean(0) - sets[0][2:].mean(0))
    between = np.linalg.norm(sets[0].mean(0) - sets[1].mean(0))
    assert sets[0].shape == (4, 192)
    assert between > 3 * within


def test_accuracy_counts_only_what_the_caption_says() -> None:
    look = labels.sample_look(np.random.default_rng(1)).with_(ears="human", accessory="crown")
    wrong = look.with_(ears="cat", accessory="none")
    right = accuracy([look, look.with_(ears="elf")], [wrong, look.with_(ears="elf")], prompted_only=True)
    assert right["ears"] == 1.0 and right["accessory"] == 0.5
