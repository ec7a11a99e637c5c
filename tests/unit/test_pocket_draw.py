"""The generator of portraits: repeatable, and its captions tell the truth."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("skia")

from trainer_bridge.pocket.make import concepts, labels  # noqa: E402
from trainer_bridge.pocket.make.draw import paint, portrait  # noqa: E402


def test_a_portrait_is_a_function_of_seed_and_index() -> None:
    first, look = portrait(5, 17)
    again, same = portrait(5, 17)
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and look == same
    assert not np.array_equal(first, portrait(5, 18)[0])
    assert not np.array_equal(first, portrait(6, 17)[0])


def test_the_caption_says_the_labels_and_nothing_else() -> None:
    for i in range(200):
        look = labels.sample_look(np.random.default_rng(i))
        said = labels.caption(look).split(", ")
        for name, classes in labels.CLASSES.items():
            if name in ("clothes", "clothes_color"):
                continue
            right = classes[getattr(look, name)]
            assert {tag for tag in classes.values() if tag in said} == ({right} if right else set())
        assert f"{look.clothes_color} {labels.CLASSES['clothes'][look.clothes]}" in said


def test_training_captions_drop_and_shuffle_but_never_invent() -> None:
    look = labels.sample_look(np.random.default_rng(3))
    full = set(labels.tags(look).values()) | set(labels.QUALITY)
    drawn = [labels.training_caption(look, np.random.default_rng(i)) for i in range(300)]
    assert all(set(text.split(", ")) <= full for text in drawn if text)
    assert 10 <= sum(not text for text in drawn) <= 60
    assert len(set(drawn)) > 200


def test_looks_survive_their_numbers() -> None:
    look = labels.sample_look(np.random.default_rng(8))
    assert labels.Look.from_indices(look.indices()) == look


@pytest.mark.parametrize("name", list(labels.CLASSES))
def test_every_class_changes_the_picture(name: str) -> None:
    base = labels.sample_look(np.random.default_rng(1)).with_(style="anime", accessory="none")
    drawn = [paint(base.with_(**{name: c}), np.random.default_rng(2)) for c in labels.CLASSES[name]]
    for i, a in enumerate(drawn):
        for b in drawn[i + 1 :]:
            changed = np.abs(a.astype(int) - b.astype(int)).max(axis=2) > 24
            assert changed.sum() > 150


@pytest.mark.parametrize("concept", list(concepts.CONCEPTS))
def test_a_concept_comes_with_captions_and_heldback_pictures(tmp_path: object, concept: str) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    concepts.write(concept, folder, 0, 3)
    concepts.write(concept, folder / "heldback", 1000, 2)
    assert sorted(p.suffix for p in folder.iterdir() if p.is_file()) == [".png"] * 3 + [".txt"] * 3
    texts = [p.read_text(encoding="utf-8").strip() for p in folder.glob("*.txt")]
    known = {tag for classes in labels.CLASSES.values() for tag in classes.values()}
    for text in texts:
        assert text
        for tag in text.split(", "):
            assert tag in known or tag.split(" ", 1)[0] in labels.CLASSES["clothes_color"]
    assert len(list((folder / "heldback").glob("*.png"))) == 2


def test_the_shipped_samples_are_what_the_script_draws() -> None:
    from PIL import Image

    for concept, count in (("character", 18), ("style", 20)):
        number = list(concepts.CONCEPTS).index(concept)
        assert len(list((concepts.SAMPLES / concept).glob("*.png"))) == count
        shipped = np.asarray(Image.open(concepts.SAMPLES / concept / f"{concept}-01.png").convert("RGB"))
        drawn, text = concepts.CONCEPTS[concept](np.random.default_rng([910, number, 0]))
        assert np.abs(shipped.astype(int) - drawn.astype(int)).mean() < 1.0
        assert (concepts.SAMPLES / concept / f"{concept}-01.txt").read_text(encoding="utf-8").strip() == text
    assert sum(p.stat().st_size for p in concepts.SAMPLES.rglob("*") if p.is_file()) < 2_000_000
