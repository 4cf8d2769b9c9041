"""Names of one meaning become one group: the merging behind the label system.

A noun and a verb spelled alike ("train") never meet, since a name is merged within its kind alone. Who may merge
what, in this order: the user's edits and file, spelling and compounds ("gray"/"grey", "motor bike"/"motorbike"), the
shipped table, inflections that the parser left, WordNet, embeddings. `how` is kept for each merge, so that a page can
say why two names are one label; a pair that is kept `apart` blocks every later merge of the groups it is in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from ram_ray.labels.names import Key, keys_of, split_kind
from ram_ray.labels.synonyms import Synonyms

How = Literal["edit", "file", "spelling", "compound", "table", "inflection", "wordnet", "embedding"]


class Senses(Protocol):
    """What WordNet answers: a key that words of one main sense share."""

    def sense(self, name: str, kind: str) -> str | None:
        """The main sense of a name of this kind, None where it has none."""
        ...


class Groups:
    """Disjoint groups of names, and by what each was joined.

    Args:
        apart: pairs of names that stay in different groups.
    """

    def __init__(self, apart: Iterable[tuple[Key, Key]] = ()) -> None:
        self._root: dict[Key, Key] = {}
        self._members: dict[Key, list[Key]] = {}
        self._joined: dict[Key, list[tuple[Key, How]]] = defaultdict(list)
        self._apart: dict[Key, set[Key]] = defaultdict(set)
        for one, other in apart:
            self._apart[one].add(other)
            self._apart[other].add(one)

    def join(self, one: Key, other: Key, how: How) -> bool:
        """Make the groups of two names one; False if they are one already, or something keeps them apart.

        Args:
            one: name and kind.
            other: name, of the same kind.
            how: what joins them.
        """
        assert one[1] == other[1], (one, other)
        first, second = self._find(one), self._find(other)
        if first == second:
            return False
        small, large = sorted((first, second), key=lambda root: (len(self._members[root]), root))
        if any(self._find(other) == large for member in self._members[small] for other in self._apart.get(member, ())):
            return False
        for member in self._members[small]:
            self._root[member] = large
        self._members[large] += self._members.pop(small)
        self._joined[one].append((other, how))
        self._joined[other].append((one, how))
        return True

    def members(self, name: Key) -> list[Key]:
        """The names of a name's group, itself among them."""
        return self._members.get(self._root.get(name, name), [name])

    def reasons(self, name: Key) -> dict[Key, tuple[Key, How]]:
        """For each other name of the group: the name nearer to `name` that it was joined with, and how."""
        found: dict[Key, tuple[Key, How]] = {}
        reached = [name]
        for here in reached:
            for other, how in self._joined.get(here, ()):
                if other != name and other not in found:
                    found[other] = (here, how)
                    reached.append(other)
        return found

    def _find(self, name: Key) -> Key:
        if name not in self._root:
            self._root[name] = name
            self._members[name] = [name]
        return self._root[name]


def apart_pairs(entries: Iterable[Sequence[Key]]) -> list[tuple[Key, Key]]:
    """Every pair of each entry, within one kind."""
    return [
        (one, other)
        for entry in entries
        for place, one in enumerate(entry)
        for other in entry[place + 1 :]
        if one[1] == other[1]
    ]


def merge_edits(groups: Groups, merges: Mapping[str, Sequence[str]], counts: Mapping[Key, int]) -> list[str]:
    """Merge what the user's edits say; returns the edits that named nothing that was counted.

    Args:
        groups: of names that mean the same; changed.
        merges: name -> names that become its synonyms.
        counts: captions that say each name.
    """
    idle = []
    for name, others in merges.items():
        done = False
        for other in others:
            for one in keys_of(other):
                target = (split_kind(name)[1], one[1])
                if split_kind(name)[0] in (None, one[1]) and (one in counts or target in counts):
                    groups.join(target, one, "edit")
                    done = True
        if not done:
            idle.append(f"merge {name}")
    return idle


def merge_groups(groups: Groups, tables: Synonyms, counts: Mapping[Key, int], how: How) -> None:
    """Merge the groups of a synonym file; those of which captions name nothing are left out.

    Args:
        groups: of names that mean the same; changed.
        tables: of the file.
        counts: captions that say each name.
        how: what joins the names.
    """
    for names in tables.groups:
        if any(name in counts for name in names):
            for name in names[1:]:
                groups.join(names[0], name, how)


def merge_spellings(groups: Groups, counts: Mapping[Key, int], tables: Sequence[Synonyms]) -> None:
    """Merge names that differ in the spelling of a word, or in spaces, hyphens and apostrophes.

    Args:
        groups: of names that mean the same; changed.
        counts: captions that say each name.
        tables: with the spellings of words.
    """

    def standing(name: str) -> str:
        for table in tables:
            name = table.spelling(name)
        return name

    first: dict[tuple[str, str], Key] = {}
    for key in sorted(counts):
        spelled = standing(key[0])
        bare = (merge_key(spelled), key[1])
        other = first.setdefault(bare, key)
        if other != key:
            compound = merge_key(key[0]) == merge_key(other[0])
            groups.join(other, key, "compound" if compound else "spelling")


def merge_key(name: str) -> str:
    """A name without spaces, hyphens and apostrophes: "motor bike", "motor-bike" and "motorbike" are one."""
    return name.replace(" ", "").replace("-", "").replace("'", "")


def merge_inflections(groups: Groups, counts: Mapping[Key, int], lemma: Mapping[Key, str]) -> None:
    """Merge a name with its dictionary form, if captions use that one more: else it is a word of its own ("bore").

    Args:
        groups: of names that mean the same; changed.
        counts: captions that say each name.
        lemma: the dictionary form of the names that have another one.
    """
    for key in sorted(lemma):
        base = (lemma[key], key[1])
        if key in counts and counts.get(base, 0) > counts[key]:
            groups.join(base, key, "inflection")


def merge_senses(groups: Groups, counts: Mapping[Key, int], senses: Senses) -> None:
    """Merge names whose main sense is one in WordNet.

    A compound stays apart from its own words, whatever the dictionary says: a "home plate" is no "plate" to eat from,
    a "basketball game" no "basketball".

    Args:
        groups: of names that mean the same; changed.
        counts: captions that say each name.
        senses: main senses of names.
    """
    alike: dict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in sorted(counts, key=lambda one: (-counts[one], one)):
        if sense := senses.sense(*key):
            alike[sense, key[1]].append(key)
    for names in alike.values():
        for place, name in enumerate(names):
            for other in names[:place]:
                if not (set(name[0].split()) < set(other[0].split()) or set(other[0].split()) < set(name[0].split())):
                    groups.join(other, name, "wordnet")
                    break
