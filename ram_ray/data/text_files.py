"""The text files of an image: `KEY.txt` and `KEY.json`, in an archive or beside an image in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field

from ram_ray.data.samples import Sample
from ram_ray.data.texts import MAX_TEXT, merge_texts, parse_caption_file, parse_captions, parse_texts, read_json
from ram_ray.records import Reject
from ram_ray.settings.data import LayoutConfig


@dataclass(slots=True)
class TextFiles:
    """What the text files of one image say; the captions of `.txt` come before those of `.json`."""

    txt_captions: list[str] = field(default_factory=list)
    json_captions: list[str] = field(default_factory=list)
    labels: tuple[object, object] = (None, None)  # values of `labels` and `negative_labels`
    origin: tuple[object, object] = (None, None)  # values of `url` and `sha256`
    problem: Reject | None = None

    def add(self, extension: str, raw: bytes, layout: LayoutConfig) -> None:
        """Read a text file.

        Args:
            extension: of its name, in lower case and without the dot.
            raw: its bytes, at most `MAX_TEXT` + 1 of them.
            layout: says how captions are read.
        """
        try:
            if len(raw) > MAX_TEXT:
                raise Reject("bad_metadata", f"more than {MAX_TEXT} bytes of .{extension}")
            if extension != "json":
                self.txt_captions += parse_caption_file(raw, f".{extension}", layout)
                return
            tree = read_json(raw)
            if layout.caption_columns:
                self.json_captions += parse_captions(tree, layout.caption_columns)
            else:
                self.json_captions += parse_captions(tree)
            self.labels = tree.get("labels"), tree.get("negative_labels")
            self.origin = tree.get("url"), tree.get("sha256")
            if tree.get("error_message") and tree.get("status") not in (None, "success"):
                status = parse_texts([str(tree.get("status")), str(tree["error_message"])], "status")
                self.problem = Reject("bad_metadata", f"img2dataset has no image: {': '.join(status)}")
        except Reject as reject:
            self.problem = reject

    def describe(self, sample: Sample) -> None:
        """Set captions, labels, origin and the problem of a sample.

        Args:
            sample: of the image.
        """
        sample.captions = merge_texts(self.txt_captions, self.json_captions)
        sample.set_origin(*self.origin)
        try:
            sample.set_labels(*self.labels)
        except Reject as reject:
            self.problem = self.problem or reject
        sample.problem = sample.problem or self.problem
