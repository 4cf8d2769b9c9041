"""A caption as a small tree for the terminal: things, what describes them, what they do.

a brown dog is running on the beach
|- dog
|  |- is brown
|  `- run on beach
`- beach (scene)
"""

from __future__ import annotations

from ram_ray.captions.parser import Caption


def draw(text: str, found: Caption) -> str:
    """The tree of a caption, or the reason why nothing was read."""
    if found.reason:
        return f"{text}\n`- nothing: {found.reason}"
    branches: dict[str, list[str]] = {tag.name: [] for tag in found.tags if tag.kind in ("object", "scene")}
    scenes = {tag.name for tag in found.tags if tag.kind == "scene"}
    for attribute, thing in found.described:
        branches.setdefault(thing, []).append(f"is {attribute}")
    for subject, action, thing, preposition in found.relations:
        branches.setdefault(subject, []).append(" ".join(one for one in (action, preposition, thing) if one))
    lines = [text]
    for place, (name, leaves) in enumerate(branches.items()):
        last = place == len(branches) - 1
        lines.append(("`- " if last else "|- ") + (name or "(not said what)") + (" (scene)" if name in scenes else ""))
        for leaf in leaves:
            lines.append(("   " if last else "|  ") + ("`- " if leaf is leaves[-1] else "|- ") + leaf)
    return "\n".join(lines)
