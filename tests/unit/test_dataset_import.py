"""Import of folders as people have them, through the command line where that is the boundary."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trainer_bridge import limits
from trainer_bridge.dataset import importer
from trainer_bridge.dataset.__main__ import main
from trainer_bridge.dataset.importer import Result, import_folder
from trainer_bridge.dataset.scan import natural
from trainer_bridge.errors import UserError

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


def encoded(colour: tuple[int, int, int], size: tuple[int, int] = (80, 64), format_: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format_)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pictures, the second with a caption."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(1, 4):
        (images / f"p{number}.png").write_bytes(encoded((number, 0, 0)))
    (images / "p2.txt").write_text("red hair, smile", encoding="utf-8")
    return images


def run(images: Path, **options: Any) -> Result:
    return import_folder(images, images.parent / "root", **options)


def reasons(result: Result) -> dict[str, str]:
    return dict(result.left_out)


def test_originals_are_copied_unchanged_and_captions_read(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = run(folder)
    assert [picture.name for picture in result.pictures] == ["p1.png", "p2.png", "p3.png"]
    assert [picture.caption for picture in result.pictures] == ["", "red hair, smile", ""]
    assert [picture.caption_source for picture in result.pictures] == ["", "p2.txt", ""]
    assert (result.left_out, result.notes) == ([], [])
    for picture in result.pictures:
        data = Path(picture.path).read_bytes()
        assert data == before[picture.name] and Path(picture.path).is_absolute()
        assert hashlib.sha256(data).hexdigest() == picture.hash == Path(picture.path).name
        assert (picture.width, picture.height) == (80, 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(list((folder.parent / "root" / "pictures").iterdir())) == 3


def test_a_second_import_reuses_what_is_there(folder: Path) -> None:
    first = run(folder)
    changed = {picture.path: os.stat(picture.path).st_mtime_ns for picture in first.pictures}
    assert run(folder) == first
    assert {path: os.stat(path).st_mtime_ns for path in changed} == changed


def test_a_copy_of_the_wrong_size_is_written_again(folder: Path) -> None:
    path = Path(run(folder).pictures[0].path)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    run(folder)
    assert path.read_bytes() == whole


def test_what_cannot_be_used_is_left_out_with_a_reason_and_the_rest_stays(folder: Path) -> None:
    (folder / "broken.png").write_bytes(encoded((9, 9, 9))[:60])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "program.png").write_bytes(b"MZ\x90\0" * 500)
    (folder / "drawing.svg").write_text("<svg/>", encoding="utf-8")
    (folder / "copy of p1.png").write_bytes((folder / "p1.png").read_bytes())
    (folder / "notes.docx").write_bytes(b"PK")
    result = run(folder)
    left = reasons(result)
    assert [picture.name for picture in result.pictures] == ["copy of p1.png", "p2.png", "p3.png"]
    assert "same picture as copy of p1.png" in left.pop("p1.png")
    assert set(left) == {"broken.png", "empty.jpg", "program.png", "drawing.svg"}
    assert "empty" in left["empty.jpg"] and "SVG" in left["drawing.svg"] and "not a picture" in left["program.png"]
    assert all(reason.endswith(".") for reason in left.values())
    assert result.notes == ["Files that are neither pictures nor captions were passed over: notes.docx."]


def test_a_caption_beside_the_copy_alone_is_used(folder: Path) -> None:
    (folder / "q.png").write_bytes((folder / "p1.png").read_bytes())
    (folder / "q.txt").write_text("hat", encoding="utf-8")
    assert run(folder).pictures[0].caption == "hat"


NAMES = [
    "with blanks  and 'quotes' \".png",
    "emoji \U0001f600\u200d\U0001f308.png",
    "ü" * 90 + ".png",
    "n" * 196 + ".png",
    "..png.png",
    "up..down..png",
    "a\nb\x1b[31m.png",
    "日本語.PNG",
    "100%s {0}.png",
]


@posix
@pytest.mark.parametrize("name", NAMES)
def test_names_as_people_give_them(folder: Path, name: str) -> None:
    (folder / name).write_bytes(encoded((0, 200, 0)))
    (folder / (name[:-4] + ".txt")).write_text("tag", encoding="utf-8")
    if name.startswith("."):
        shutil.move(folder / name, folder / ("x" + name))
        shutil.move(folder / (name[:-4] + ".txt"), folder / ("x" + name[:-4] + ".txt"))
    result = run(folder)
    ours = [picture for picture in result.pictures if picture.caption == "tag"]
    assert len(result.pictures) == 4 and len(ours) == 1 and result.left_out == []
    assert ours[0].name.isprintable()


@posix
def test_undecodable_names_work_and_print(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        (folder / os.fsdecode(b"caf\xe9 \xff.png")).write_bytes(encoded((0, 200, 0)))
    except OSError:
        pytest.skip("this file system takes no such names")
    (folder / os.fsdecode(b"bad \xff.png")).write_bytes(b"x")
    code, answer, _ = command(folder, capfd)
    assert code == 0 and len(answer["pictures"]) == 4
    assert "caf\ufffd \ufffd.png" in {picture["name"] for picture in answer["pictures"]}
    assert answer["left_out"][0]["name"] == "bad \ufffd.png"


def test_folders_inside_are_looked_through_and_clutter_is_not(folder: Path) -> None:
    for name in ("sub/deeper/p4.png", "__MACOSX/._p1.png", ".hidden/p5.png", ".p6.png", "sub/@eaDir/p7.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded((0, len(name), 0)))
    (folder / "sub/deeper/p4.txt").write_text("deep", encoding="utf-8")
    (folder / "Thumbs.db").write_bytes(b"\0")
    result = run(folder)
    assert [picture.name for picture in result.pictures][-1] == "sub/deeper/p4.png"
    assert [picture.caption for picture in result.pictures][-1] == "deep"
    assert len(result.pictures) == 4 and result.left_out == [] and result.notes == []


def test_the_data_root_inside_the_folder_is_not_a_source(folder: Path) -> None:
    root = folder / "atelier"
    import_folder(folder, root)
    (root / "derived").mkdir()
    (root / "derived" / "x.png").write_bytes(encoded((7, 7, 7)))
    again = import_folder(folder, root)
    assert len(again.pictures) == 3 and again.left_out == again.notes == []


def test_the_folder_itself_as_data_root_is_no_source_either(folder: Path) -> None:
    import_folder(folder, folder)
    again = import_folder(folder, folder)
    assert len(again.pictures) == 3 and again.left_out == again.notes == []


@posix
def test_links_are_followed_inside_the_folder_alone(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(encoded((0, 0, 99)))
    (outside / "secret.txt").write_text("password", encoding="utf-8")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "away").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "p3.txt").symlink_to(outside / "secret.txt")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    result = run(folder)
    assert len(result.pictures) == 3 and all("password" not in picture.caption for picture in result.pictures)
    assert set(reasons(result)) == {"link.png", "away", "p3.txt", "gone.png"}


@posix
def test_pipes_and_folders_named_like_pictures(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    assert set(reasons(run(folder))) == {"pipe.png"}


@posix
def test_unreadable_files_and_folders_are_left_out(folder: Path) -> None:
    (folder / "locked.png").write_bytes(encoded((3, 3, 3)))
    (folder / "locked.png").chmod(0)
    (folder / "sub").mkdir(mode=0)
    if os.access(folder / "locked.png", os.R_OK):
        pytest.skip("this user may read everything")
    left = reasons(run(folder))
    assert "permissions" in left["locked.png"] and "cannot be read" in left["sub"]


def test_a_file_that_may_not_be_read_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as above for those who run the tests as root."""
    read = importer.read_bounded

    def refuse(path: Path, limit: int) -> bytes:
        if path.name == "locked.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path, limit)

    monkeypatch.setattr(importer, "read_bounded", refuse)
    (folder / "locked.png").write_bytes(encoded((3, 3, 3)))
    assert "permissions" in reasons(run(folder))["locked.png"]


def test_pictures_beyond_the_limit_are_left_out_in_the_order_people_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_PICTURES", 4)
    (folder / "p0.png").write_bytes(b"broken")
    for number in range(4, 12):
        (folder / f"p{number}.png").write_bytes(encoded((number, 0, 0)))
    seen: list[tuple[int, int]] = []
    result = run(folder, progress=lambda done, total: seen.append((done, total)))
    assert [picture.name for picture in result.pictures] == ["p1.png", "p2.png", "p3.png", "p4.png"]
    left = reasons(result)
    assert [name for name, reason in left.items() if "first 4" in reason] == [f"p{n}.png" for n in range(5, 12)]
    assert seen == [(done, 12) for done in range(1, 13)]


def test_a_large_file_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_PICTURE_BYTES", 2_000)
    with (folder / "big.png").open("wb") as file:
        file.write(encoded((1, 1, 1)) + b"\0" * 5_000)
    assert "larger" in reasons(run(folder))["big.png"]


def test_fewer_than_three_is_refused_and_says_why(folder: Path) -> None:
    (folder / "p1.png").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        run(folder)
    assert caught.value.what.startswith("Only 2 pictures") and "p1.png: The file is empty." in caught.value.what
    assert caught.value.way_out


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No picture"):
        run(tmp_path / "empty")


@pytest.mark.parametrize("name", ["missing", "p1.png"])
def test_what_is_no_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="no folder|not a folder"):
        run(folder / name)


def test_a_folder_of_everything_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_FOLDER_ENTRIES", 3)
    with pytest.raises(UserError, match="more than 3 files"):
        run(folder)


@pytest.mark.parametrize(("code", "sentence"), [(errno.ENOSPC, "disk .* is full"), (errno.EACCES, "cannot be written")])
def test_a_data_root_that_takes_nothing_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(importer, "write_atomic", refuse)
    with pytest.raises(UserError, match=sentence):
        run(folder)
    assert list((folder.parent / "root" / "pictures").iterdir()) == []


def test_a_data_root_that_is_a_file_is_refused(folder: Path) -> None:
    (folder.parent / "root").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        run(folder)


def test_natural_order() -> None:
    names = [
        "10.png",
        "2.png",
        "a10b.png",
        "a9b.png",
        "B1.png",
        "\u00b2.png",
        "a/2.png",
        "a/10.png",
        "1" * 300,
    ]
    assert sorted(names, key=natural)[:2] == ["2.png", "10.png"]
    assert sorted(["a10b", "a9b"], key=natural) == ["a9b", "a10b"]
    assert sorted(["IMG2", "img10", "img1"], key=natural) == ["img1", "IMG2", "img10"]


def command(folder: Path, capfd: pytest.CaptureFixture[str], **request: Any) -> tuple[int, dict[str, Any], str]:
    path = folder.parent / "request.json"
    asked = {"images": str(folder), "root": str(folder.parent / "root"), "trigger": "ohwx"} | request
    path.write_text(json.dumps(asked), encoding="utf-8")
    code = main(["import", str(path)])
    printed = capfd.readouterr()
    assert printed.out.count("\n") == 1 and printed.out.isascii() and printed.err.isascii()
    return code, json.loads(printed.out), printed.err


def test_the_command_prints_one_object_and_progress(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, answer, progress = command(folder, capfd)
    assert code == 0
    assert set(answer) == {"pictures", "left_out", "notes"}
    assert set(answer["pictures"][0]) == {
        "hash", "path", "name", "width", "height", "caption", "caption_source", "notes",
    }  # fmt: skip
    assert json.loads(progress.splitlines()[-1]) == {"progress": [3, 3]}


@pytest.mark.parametrize(
    "request_",
    [{"images": None}, {"images": "a\0b"}, {"root": 7}, {"trigger": "a, b"}, {"images": "/nowhere"}],
)
def test_a_wrong_request_is_exit_code_two(
    folder: Path, capfd: pytest.CaptureFixture[str], request_: dict[str, Any]
) -> None:
    code, answer, _ = command(folder, capfd, **request_)
    assert code == 2 and answer["error"]["what"].endswith(".") and answer["error"]["way_out"]


@pytest.mark.parametrize("text", ["", "[]", "[" * 9999, "\xff"])
def test_a_request_that_is_none_is_exit_code_two(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request.json").write_text(text, encoding="latin-1")
    assert main(["import", str(tmp_path / "request.json")]) == 2
    assert main(["export"]) == 2
    assert all("error" in json.loads(line) for line in capfd.readouterr().out.splitlines())


def test_as_a_process_of_its_own_in_a_plain_console(folder: Path) -> None:
    (folder / "日本.png").write_bytes(encoded((0, 9, 0)))
    request = folder.parent / "request.json"
    request.write_text(json.dumps({"images": str(folder), "root": str(folder.parent / "root")}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "trainer_bridge.dataset", "import", str(request)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pictures"][3]["name"] == "日本.png"
