"""Contract: tags stand in `.txt` and XMP sidecars and in JPEG files as exiftool reads them, and what somebody else
wrote is never lost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ram_ray.interop.sidecars import SidecarWriter, has_exiftool, xmp_packet
from ram_ray.runtime.location import to_text
from tests.tiny import jpeg

needs_exiftool = pytest.mark.skipif(not has_exiftool(), reason="exiftool is not installed")
FOREIGN = '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 6.0"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>mine</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>'  # noqa: E501


def row(path: Path, *tags: str, caption: str | None = None, error: str | None = None, member: str = "") -> dict:
    values = {"key": f"album/{path.name}", "uri": str(path), "member": member, "error": error}
    return {**values, "tags": list(tags), "scores": [0.5] * len(tags), "caption": caption}


def read_tags(path: Path) -> dict:
    """What exiftool reads, in lists."""
    line = ["exiftool", "-j", "-struct", "-XMP-dc:all", str(path)]
    (tree,) = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
    tree["Subject"] = [tree["Subject"]] if isinstance(tree.get("Subject"), str) else tree.get("Subject", [])
    return tree


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    return tmp_path / "a.jpg"


def test_sidecars_beside_images(photo_file: Path) -> None:
    write = SidecarWriter(["txt", "xmp"])
    broken = row(photo_file.with_name("b.jpg"), error="truncated: x")
    assert write([row(photo_file, "dog", "R&B <club>", caption="a dog\0"), broken]) == {"txt": 1, "xmp": 1}
    assert {path.name for path in photo_file.parent.iterdir()} == {"a.jpg", "a.txt", "a.jpg.xmp"}
    assert photo_file.with_suffix(".txt").read_text() == "dog, R&B <club>\n"
    tree = ElementTree.fromstring(photo_file.with_name("a.jpg.xmp").read_text())
    assert [item.text for item in tree.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li")] == [
        "dog",
        "R&B <club>",
        "a dog ",
    ]
    write([row(photo_file, "cat")])  # our own XMP is replaced, with the tags of now
    assert "cat" in photo_file.with_name("a.jpg.xmp").read_text() and not write.changes_images


@pytest.mark.parametrize("name", ["a::b", "\udce9", r"back\xe9"])
def test_sidecars_beside_images_with_odd_names(name: str, tmp_path: Path) -> None:
    image = f"{tmp_path}/{name}.jpg"
    Path(image).write_bytes(jpeg(1))
    assert SidecarWriter(["txt", "xmp"])([{**row(Path("a.jpg"), "dog"), "uri": to_text(image)}]) == {"txt": 1, "xmp": 1}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.jpg", f"{name}.txt", f"{name}.jpg.xmp"}


def test_a_text_of_somebody_else_is_left(photo_file: Path) -> None:
    caption = photo_file.with_suffix(".txt")
    caption.write_text("my dog at the sea")
    assert SidecarWriter(["txt"])([row(photo_file, "dog")]) == {"txt left as it was": 1}
    assert caption.read_text() == "my dog at the sea"
    assert SidecarWriter(["txt"], overwrite=True)([row(photo_file, "dog")]) == {"txt": 1}
    assert caption.read_text() == "dog\n"


def test_sidecars_of_a_shard_go_to_a_folder(tmp_path: Path) -> None:
    shard = row(tmp_path / "00000.tar", "dog", member="00000/0001")
    with pytest.raises(ValueError, match="give --sidecars DIR"):
        SidecarWriter(["txt"])([shard])
    shard["key"] = "../coco/00000/0001.2"
    SidecarWriter(["txt", "xmp"], folder=str(tmp_path / "out"))([shard])
    assert {path.name for path in (tmp_path / "out" / "coco" / "00000").iterdir()} == {"0001.2.txt", "0001.2.xmp"}


def test_wrong_formats_are_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'html' is no sidecar; use one of txt, xmp, jpeg"):
        SidecarWriter(["html"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="libimage-exiftool-perl"):
        SidecarWriter(["jpeg"])


def test_a_foreign_xmp_is_left_without_exiftool(photo_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    photo_file.with_name("a.jpg.xmp").write_text(FOREIGN)
    assert SidecarWriter(["xmp"])([row(photo_file, "dog")]) == {"xmp left as it was": 1}
    assert photo_file.with_name("a.jpg.xmp").read_text() == FOREIGN


@needs_exiftool
def test_exiftool_reads_a_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a.xmp").write_text(xmp_packet(["dog", "grün & <blau>"], "a dog"))
    tags = read_tags(tmp_path / "a.xmp")
    assert tags["Subject"] == ["dog", "grün & <blau>"] and tags["Description"] == "a dog"


@needs_exiftool
def test_tags_are_added_to_images_and_foreign_sidecars(photo_file: Path) -> None:
    pixels = photo_file.read_bytes()[-200:]
    before = photo_file.stat().st_mtime
    photo_file.with_name("a.jpg.xmp").write_text(FOREIGN)
    broken = photo_file.with_name("b.jpg")
    broken.write_text("no image")
    write = SidecarWriter(["xmp", "jpeg"])
    assert write.changes_images
    for _ in range(2):  # again: no tag twice
        counts = write([row(photo_file, "dog", "grün", caption="a dog")])
        assert counts == {"xmp": 1, "jpeg": 1}
    assert read_tags(photo_file)["Subject"] == ["dog", "grün"] and read_tags(photo_file)["Description"] == "a dog"
    assert read_tags(photo_file.with_name("a.jpg.xmp"))["Subject"] == ["mine", "dog", "grün"]
    assert photo_file.read_bytes()[-200:] == pixels and abs(photo_file.stat().st_mtime - before) < 1
    write([row(photo_file, "dog", caption="another")])
    assert read_tags(photo_file)["Description"] == "a dog", "a description that is there is kept"
    assert SidecarWriter(["jpeg"])([row(broken, "dog")]) == {"jpeg left as it was": 1}
    assert broken.read_text() == "no image"
