"""Samples of the released RAM annotations: a JSON list whose images are files of a folder.

The list holds {image_path, caption: [text], union_label_id: [id], parse_label_id: [[id]]} (arXiv 2306.03514, the
authors' repository) and can have millions of entries, so it is read entry by entry. Ids are those of the list that
`labels.system` names. `parse_label_id` has the ids of each caption; ids only in `union_label_id` are of the authors'
data engine. Both become tags that came with the data (`given_tags`), not human labels: cleaning may remove them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ram_ray.data.json_stream import JsonStream, open_json
from ram_ray.data.samples import GivenTag, ImageCheck, Sample, check_file, folder_of, relative_name
from ram_ray.data.texts import parse_texts
from ram_ray.records import Json, Reject
from ram_ray.runtime.location import child_uri

MAX_ID = 1_000_000
NUM_CHECKED = 100  # entries that are read before a run


def check_system(uri: str, system: str | None) -> None:
    """Check that the label ids of a list have names; its first entries are read.

    Args:
        uri: of the JSON list.
        system: the setting `labels.system`.

    Raises:
        ValueError: if it is no list of annotations, or has label ids and there is no list of their names.
    """
    entries = (entry for entry in islice(read_entries(uri), NUM_CHECKED) if isinstance(entry, dict))
    fields = {name for entry in entries for name in entry}
    if not {"image_path", "image"} & fields:
        raise ValueError(f"{uri}: its entries name no image; a JSON list holds objects with image_path and caption")
    if system is None and {"union_label_id", "parse_label_id"} & fields:
        raise ValueError(f"{uri} has label ids: set labels.system to the list of their names, such as ram_tag_list.txt")


def read_annotation_list(uri: str, *, images: str | None, check_image: ImageCheck) -> Iterator[Sample]:
    """Read the samples of a JSON list of annotations.

    Args:
        uri: URI of the list.
        images: folder that image paths start from; None: the folder of the list.
        check_image: function that checks an image.

    Yields:
        Samples; the key is the image's path. A list that ends early gives one rejected sample for the rest.

    Raises:
        OSError: if the storage fails.
    """
    root = folder_of(uri, images)
    entries, number = read_entries(uri), 0
    while True:
        number += 1
        try:
            entry = next(entries)
        except StopIteration:
            return
        except ValueError as error:
            yield Sample(f"#broken-{number}", uri, problem=Reject("broken_archive", str(error)))
            return
        sample = Sample(f"entry-{number}", uri)
        try:
            _read_entry(entry, sample, root=root)
        except Reject as reject:
            sample.problem = reject
        else:
            check_file(sample, named_in=f"entry {number}", check_image=check_image)
        yield sample


def _read_entry(entry: object, sample: Sample, *, root: str) -> None:
    """Set what an entry says of an image."""
    if not isinstance(entry, dict):
        raise Reject("bad_metadata", f"not a JSON object: {str(entry)[:100]}")
    name = relative_name(entry.get("image_path", entry.get("image")), root=root, fields='"image_path"')
    texts, ids_of_texts = _captions(entry)
    union = _ids(entry.get("union_label_id"), "union_label_id")
    given: list[GivenTag] = []
    for text, ids in zip(texts, ids_of_texts, strict=True):
        if caption := parse_texts(text, "caption"):
            given += [GivenTag(id=id, caption=len(sample.captions)) for id in dict.fromkeys(ids)]
            sample.captions += caption
    mentioned = {tag["id"] for tag in given}
    given += [GivenTag(id=id, caption=None) for id in dict.fromkeys(union) if id not in mentioned]
    sample.given_tags = given or None
    sample.key, sample.uri = (
        name,
        child_uri(root, name),
    )  # last: an entry that cannot be used does not take the image's key


def _captions(entry: Json) -> tuple[list[object], list[list[int]]]:
    """The captions of an entry, and the label ids of each."""
    captions, ids = entry.get("caption") or [], entry.get("parse_label_id") or []
    if isinstance(captions, str):
        captions = [captions]
        ids = ids if isinstance(ids, list) and ids and isinstance(ids[0], list) else [ids]
    if not isinstance(captions, list) or not isinstance(ids, list):
        raise Reject("bad_metadata", "caption must be a text or a list of texts, parse_label_id a list of lists")
    if len(ids) > len(captions):
        raise Reject("bad_metadata", f"{len(captions)} captions, {len(ids)} lists in parse_label_id")
    ids_of_texts = [_ids(value, "parse_label_id") for value in ids]
    return captions, ids_of_texts + [[] for _ in range(len(captions) - len(ids))]


def _ids(value: object, name: str) -> list[int]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Reject("bad_metadata", f"{name} must be a list of label ids, not {type(value).__name__}")
    for id in value:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < MAX_ID:
            raise Reject("bad_metadata", f"{name}: {str(id)[:40]} is no label id")
    return value


def read_entries(uri: str) -> Iterator[object]:
    """Read the entries of a JSON list one by one, in bounded memory.

    Args:
        uri: the file, at any fsspec URI, also compressed.

    Yields:
        An entry as JSON gives it.

    Raises:
        ValueError: if the file is not a JSON list, ends early, or has an entry of more than `MAX_ENTRY` characters.
    """
    with open_json(uri) as file:
        stream = JsonStream(file, uri)
        if stream.peek() not in ("[", ""):
            raise ValueError(f"{uri}: not a JSON list; the released annotations begin with '['")
        yield from stream.items()
