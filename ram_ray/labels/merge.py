"""Groups names with the same meaning, for the label system.

Names of different kinds never merge, so a noun and a verb with the same spelling ("train") are different labels. The
sources of merges, in this order: the user's edits and file, spelling and compounds ("gray"/"grey", "motor bike"/
"motorbike"), the shipped table, inflections, WordNet, embeddings. Each merge has a reason, for the report. A pair of
names in `apart` prevents every merge of their groups.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

from ram_ray.label_system import split_kind
from ram_ray.labels.names import Key, keys_of
from ram_ray.labels.synonyms import Synonyms

MergeReason = Literal["edit", "file", "spelling", "compound", "table", "inflection", "wordnet", "embedding"]


class Senses(Protocol):
    """Protocol of `WordNet`: main senses of names."""

    def sense(self, name: str, kind: str) -> str | None:
        """Look up the main sense of a name.

        Args:
            name: in lower case.
            kind: one of `records.KINDS`.

        Returns:
            A key that names with the same main sense share; None if the name has no main sense.
        """
        ...


class Groups:
    """Disjoint groups of names, with the reason of each merge (a disjoint-set forest).

    Args:
        apart: pairs of names that never share a group.
    """

    def __init__(self, apart: Iterable[tuple[Key, Key]] = ()) -> None:
        self._root: dict[Key, Key] = {}
        self._members: dict[Key, list[Key]] = {}
        self._joined: dict[Key, list[tuple[Key, MergeReason]]] = defaultdict(list)
        self._apart: dict[Key, set[Key]] = defaultdict(set)
        for first, second in apart:
            self._apart[first].add(second)
            self._apart[second].add(first)

    def join(self, first: Key, second: Key, reason: MergeReason) -> bool:
        """Merge the groups of two names.

        Args:
            first: name and kind.
            second: name and kind; the kind is the same.
            reason: source of the merge.

        Returns:
            True if the groups were merged; False if they are the same group, or an `apart` pair prevents it.
        """
        assert first[1] == second[1], (first, second)
        roots = self._find(first), self._find(second)
        if roots[0] == roots[1]:
            return False
        small, large = sorted(roots, key=lambda root: (len(self._members[root]), root))
        if any(self._find(name) == large for member in self._members[small] for name in self._apart.get(member, ())):
            return False
        for member in self._members[small]:
            self._root[member] = large
        self._members[large] += self._members.pop(small)
        self._joined[first].append((second, reason))
        self._joined[second].append((first, reason))
        return True

    def members(self, name: Key) -> list[Key]:
        """List the group of a name.

        Args:
            name: name and kind.

        Returns:
            All names of the group, including `name`.
        """
        return self._members.get(self._root.get(name, name), [name])

    def reasons(self, name: Key) -> dict[Key, tuple[Key, MergeReason]]:
        """Explain the group of a name.

        Args:
            name: name and kind.

        Returns:
            Other name of the group -> (the previous name on its path of merges from `name`, reason of the last merge).
        """
        reasons: dict[Key, tuple[Key, MergeReason]] = {}
        queue = [name]
        for current in queue:
            for other, reason in self._joined.get(current, ()):
                if other != name and other not in reasons:
                    reasons[other] = (current, reason)
                    queue.append(other)
        return reasons

    def _find(self, name: Key) -> Key:
        if name not in self._root:
            self._root[name] = name
            self._members[name] = [name]
        return self._root[name]


def apart_pairs(entries: Iterable[Sequence[Key]]) -> list[tuple[Key, Key]]:
    """List the pairs of names that never merge.

    Args:
        entries: groups of names.

    Returns:
        All pairs of names of an entry that have the same kind.
    """
    return [
        (first, second)
        for entry in entries
        for index, first in enumerate(entry)
        for second in entry[index + 1 :]
        if first[1] == second[1]
    ]


def merge_edits(groups: Groups, merges: Mapping[str, Sequence[str]], counts: Mapping[Key, int]) -> list[str]:
    """Merge names by the user's edits.

    Args:
        groups: changed in place.
        merges: name -> names that become its synonyms.
        counts: name and kind -> captions that mention it.

    Returns:
        Edits without effect, because none of their names was counted.
    """
    unused = []
    for name, synonyms in merges.items():
        is_used = False
        for synonym in synonyms:
            for key in keys_of(synonym):
                target = (split_kind(name)[1], key[1])
                if split_kind(name)[0] in (None, key[1]) and (key in counts or target in counts):
                    groups.join(target, key, "edit")
                    is_used = True
        if not is_used:
            unused.append(f"merge {name}")
    return unused


def merge_groups(groups: Groups, tables: Synonyms, counts: Mapping[Key, int], reason: MergeReason) -> None:
    """Merge names by the groups of a synonym file; groups without a counted name are skipped.

    Args:
        groups: changed in place.
        tables: content of the file.
        counts: name and kind -> captions that mention it.
        reason: source of the merges.
    """
    for names in tables.groups:
        if any(name in counts for name in names):
            for name in names[1:]:
                groups.join(names[0], name, reason)


def merge_spellings(groups: Groups, counts: Mapping[Key, int], tables: Sequence[Synonyms]) -> None:
    """Merge names that differ in the spelling of a word, or in spaces, hyphens and apostrophes.

    Args:
        groups: changed in place.
        counts: name and kind -> captions that mention it.
        tables: spellings of words.
    """

    def standard_spelling(name: str) -> str:
        for table in tables:
            name = table.spelling(name)
        return name

    names: dict[tuple[str, str], Key] = {}  # normalized name and kind -> the first name
    for key in sorted(counts):
        normalized = (merge_key(standard_spelling(key[0])), key[1])
        other = names.setdefault(normalized, key)
        if other != key:
            is_compound = merge_key(key[0]) == merge_key(other[0])
            groups.join(other, key, "compound" if is_compound else "spelling")


def merge_key(name: str) -> str:
    """Remove spaces, hyphens and apostrophes.

    Args:
        name: for example "motor bike" or "motor-bike".

    Returns:
        The name as a single word: "motorbike".
    """
    return name.replace(" ", "").replace("-", "").replace("'", "")


def merge_inflections(groups: Groups, counts: Mapping[Key, int], lemma: Mapping[Key, str]) -> None:
    """Merge a name with its dictionary form if that is more frequent; else the name is another word ("bore").

    Args:
        groups: changed in place.
        counts: name and kind -> captions that mention it.
        lemma: name and kind -> dictionary form, for names that differ from it.
    """
    for key in sorted(lemma):
        base = (lemma[key], key[1])
        if key in counts and counts.get(base, 0) > counts[key]:
            groups.join(base, key, "inflection")


def merge_senses(groups: Groups, counts: Mapping[Key, int], senses: Senses) -> None:
    """Merge names that have the same main sense in WordNet.

    A compound never merges with its own words: a "home plate" is not a "plate", and a "basketball game" is not a
    "basketball".

    Args:
        groups: changed in place.
        counts: name and kind -> captions that mention it.
        senses: main senses of names.
    """
    by_sense: dict[tuple[str, str], list[Key]] = defaultdict(list)
    for key in sorted(counts, key=lambda member: (-counts[member], member)):
        if sense := senses.sense(*key):
            by_sense[sense, key[1]].append(key)
    for names in by_sense.values():
        for index, name in enumerate(names):
            for other in names[:index]:
                if not (set(name[0].split()) < set(other[0].split()) or set(other[0].split()) < set(name[0].split())):
                    groups.join(other, name, "wordnet")
                    break
