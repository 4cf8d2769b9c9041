"""Tags beside images: `.txt` and XMP sidecars, and XMP inside JPEG files by exiftool.

    a.jpg -> a.txt        "dog, beach"
          -> a.jpg.xmp    dc:subject, and dc:description with a caption, as digiKam, darktable and Immich read them
          -> a.jpg        the same, added to what the file has

A sidecar that somebody else wrote is never lost: a `.txt` that is there with other content is left as it is unless it
may be replaced, and tags are added to a foreign XMP by exiftool, or it is left as it is where exiftool is not
installed. An XMP of this module names `ram_ray` as its toolkit and is replaced.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from xml.sax.saxutils import escape

from ram_ray import __version__
from ram_ray.records import Row
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.location import locate_path, to_path

logger = logging.getLogger(__name__)

FORMATS = ("txt", "xmp", "jpeg")
JPEG_SUFFIXES = (".jpg", ".jpeg")
EXIFTOOL = "exiftool"
MAX_SIDECAR_BYTES = 16 << 20
_TOOLKIT = 'x:xmptk="ram_ray'
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {toolkit} {version}">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>{description}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


class SidecarWriter:
    """Writes the tags of rows beside or into their images; a sink of batch tagging.

    Args:
        formats: of `FORMATS`.
        folder: path or URI that gets the sidecars, in folders as the keys have them; None: beside the images.
        overwrite: whether a `.txt` that is there may be replaced.

    Raises:
        ValueError: if a format is unknown, or exiftool is needed and not installed.
    """

    def __init__(self, formats: Sequence[str], *, folder: str | None = None, overwrite: bool = False) -> None:
        if unknown := [name for name in formats if name not in FORMATS]:
            raise ValueError(f"{unknown[0]!r} is no sidecar; use one of {', '.join(FORMATS)}")
        if "jpeg" in formats and not has_exiftool():
            raise ValueError(
                f"tags get into JPEG files by {EXIFTOOL}, which is not installed (Debian: libimage-exiftool-perl)"
            )
        self._formats, self._folder, self._overwrite = tuple(formats), folder, overwrite

    @property
    def changes_images(self) -> bool:
        """Whether the image files themselves are written."""
        return "jpeg" in self._formats

    def __call__(self, rows: Sequence[Row]) -> Counter[str]:
        """Write the tags of rows; those with an error get nothing.

        Args:
            rows: of `tagged_parts.tagged_schema`.

        Returns:
            Number of files by format, and of files that were left as they were.

        Raises:
            ValueError: if a sidecar cannot be written.
        """
        written: Counter[str] = Counter()
        exiftool = ExifTool()
        for row in rows:
            if row["error"] is None:
                written.update(self._write(row, exiftool))
        return written + exiftool.run()

    def _write(self, row: Row, exiftool: ExifTool) -> Counter[str]:
        written: Counter[str] = Counter()
        try:
            if "txt" in self._formats:
                path = self._path(row, keep_suffix=False) + ".txt"
                text = ", ".join(_plain(tag) for tag in row["tags"]) + "\n"
                earlier = _read(path)
                is_free = earlier is None or earlier == text or self._overwrite
                written["txt" if is_free else "txt left as it was"] += 1
                if is_free and earlier != text:
                    write_text(path, text)
            if "xmp" in self._formats:
                path = self._path(row, keep_suffix=True) + ".xmp"
                earlier = _read(path)
                if earlier is None or _TOOLKIT in earlier:
                    write_text(path, xmp_packet(row["tags"], row.get("caption")))
                    written["xmp"] += 1
                else:
                    written.update(exiftool.add(path, row, format="xmp"))
            if "jpeg" in self._formats and row["uri"].lower().endswith(JPEG_SUFFIXES) and not row["member"]:
                written.update(exiftool.add(to_path(row["uri"]), row, format="jpeg"))
        except PermissionError as error:
            raise ValueError(f"{error.filename}: cannot be written; name another folder with --sidecars DIR") from None
        return written

    def _path(self, row: Row, *, keep_suffix: bool) -> str:
        if self._folder is None:
            if row["member"]:
                raise ValueError(
                    f"{row['uri']} is a shard, whose images have no place beside them; give --sidecars DIR"
                )
            path = to_path(row["uri"])
        else:
            inside = [part for part in row["key"].rpartition("://")[2].split("/") if part not in ("", ".", "..")]
            path = "/".join([self._folder.rstrip("/"), *inside])
        folder, slash, name = path.rpartition("/")
        stem = name if keep_suffix or row["member"] else name.rpartition(".")[0] or name
        return f"{folder}{slash}{stem}"


class ExifTool:
    """Adds tags to files, all of them by one process of exiftool. A tag that a file has is not added again."""

    def __init__(self) -> None:
        self._arguments: list[str] = []
        self._formats: dict[str, str] = {}  # path -> format

    def add(self, path: str, row: Row, *, format: str) -> Counter[str]:
        """Note a file for `run`.

        Args:
            path: of the file.
            row: with tags, and a caption if there is one.
            format: name that it is counted under.

        Returns:
            A count of one if the file has to be left as it is.
        """
        if "://" in path or "\n" in path or not has_exiftool():
            return Counter({f"{format} left as it was": 1})
        tags = [_plain(tag) for tag in row["tags"]]
        if tags:
            self._arguments += [f"-XMP-dc:Subject{sign}={tag}" for tag in tags for sign in ("-", "+")]
            self._arguments += [path, "-execute"]
        if caption := row.get("caption"):
            new = f"-XMP-dc:Description-x-default={_plain(caption)}"
            self._arguments += ["-if", "not $XMP-dc:Description", new, path, "-execute"]
        self._formats[path] = format
        return Counter()

    def run(self) -> Counter[str]:
        """Write the files; a file that exiftool refuses is left as it was, and named in the log.

        Returns:
            Number of files by format.
        """
        if not self._arguments:
            return Counter(self._formats.values())
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogateescape", suffix=".args") as arguments:
            arguments.write("".join(f"{line}\n" for line in self._arguments))
            arguments.flush()
            options = ["-overwrite_original", "-P", "-q", "-m", "-charset", "filename=utf8"]
            ended = subprocess.run(
                [EXIFTOOL, "-@", arguments.name, "-common_args", *options],
                capture_output=True,
                text=True,
                errors="surrogateescape",
                check=False,
            )
        counts: Counter[str] = Counter()
        refused = [line for line in ended.stderr.splitlines() if line.startswith("Error")]
        for path, format in self._formats.items():
            errors = [line for line in refused if line.endswith(f" - {path}")]
            counts[f"{format} left as it was" if errors else format] += 1
            if errors:
                logger.warning("%s", errors[0])
        return counts


def xmp_packet(tags: Sequence[str], caption: str | None = None) -> str:
    """Make an XMP sidecar.

    Args:
        tags: names.
        caption: of the image.

    Returns:
        The text of the file.
    """
    items = "".join(f"<rdf:li>{escape(_plain(tag))}</rdf:li>" for tag in tags)
    description = ""
    if caption:
        text = f'<rdf:li xml:lang="x-default">{escape(_plain(caption))}</rdf:li>'
        description = f"\n   <dc:description><rdf:Alt>{text}</rdf:Alt></dc:description>"
    return _PACKET.format(toolkit=_TOOLKIT, version=__version__, items=items, description=description)


def has_exiftool() -> bool:
    """Whether exiftool is installed."""
    return shutil.which(EXIFTOOL) is not None


def _plain(text: str) -> str:
    """A text without control characters, which neither XML nor a line can hold."""
    return "".join(char if char.isprintable() else " " for char in text)


def _read(path: str) -> str | None:
    """The text of a file, or None if it is not there."""
    try:
        fs, name = locate_path(path)
        with fs.open(name, "rb") as file:
            return file.read(MAX_SIDECAR_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return None
