"""A caption as a tree for the terminal: objects and scenes with their attributes and actions.

a brown dog is running on the beach
|- dog
|  |- is brown
|  `- run on beach
`- beach (scene)
"""

from __future__ import annotations

from ram_ray.captions.parser import Caption


def draw(text: str, caption: Caption) -> str:
    """Draw the tree of a caption.

    Args:
        text: the caption.
        caption: as read by `CaptionParser.read`.

    Returns:
        Lines of text: the tree, or the reason why the caption was rejected.
    """
    if caption.reason:
        return f"{text}\n`- nothing: {caption.reason}"
    branches: dict[str, list[str]] = {tag.name: [] for tag in caption.tags if tag.kind in ("object", "scene")}
    scenes = {tag.name for tag in caption.tags if tag.kind == "scene"}
    for attribute, thing in caption.described:
        branches.setdefault(thing, []).append(f"is {attribute}")
    for subject, action, thing, preposition in caption.relations:
        branches.setdefault(subject, []).append(" ".join(part for part in (action, preposition, thing) if part))
    lines = [text]
    for index, (name, leaves) in enumerate(branches.items()):
        last = index == len(branches) - 1
        lines.append(("`- " if last else "|- ") + (name or "(not named)") + (" (scene)" if name in scenes else ""))
        for leaf in leaves:
            lines.append(("   " if last else "|  ") + ("`- " if leaf is leaves[-1] else "|- ") + leaf)
    return "\n".join(lines)
