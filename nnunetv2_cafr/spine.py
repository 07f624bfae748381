"""Which label of a table is which vertebra or disc, in their order from the sacrum upwards.

Names are SpineMRI's (S, L5, L4/L5), those of other tools as far as they say the level (vertebrae_L5, sacrum, S1,
disc_L5_S), and SPIDER's numbers from the bottom (vertebra_1, disc_1 below it). Other structures, such as the canal, may
stand in the table; they have no place in the order.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# From the sacrum upwards. L6 and T13 occur in some people only, so nothing is missing where they are absent.
VERTEBRAE = (
    *("S", "L6"),
    *(f"L{n}" for n in range(5, 0, -1)),
    *(f"T{n}" for n in range(13, 0, -1)),
    *(f"C{n}" for n in range(7, 0, -1)),
)
OPTIONAL = ("L6", "T13")
USUAL = tuple(name for name in VERTEBRAE if name not in OPTIONAL)
CERVICAL = tuple(name for name in VERTEBRAE if name.startswith("C"))
SACRUM = "S"
FEWEST_VERTEBRAE = 3  # names in a label table that make it one of spine levels
BACKGROUND, IGNORE = "background", "ignore"  # nnU-Net's names; the second of voxels that nobody annotated
PREFIX = re.compile(r"^(vertebrae|vertebra|disc|disk|ivd)[_ -]", re.IGNORECASE)
NUMBERED = re.compile(r"^(vertebra|disc)_(\d+)$")
# L5, D12, L_2, LWK5, IVD_L5, VertebraL5 ..., anywhere in a name, so T1_lesion too; not rib_left_1, nor S2.
HOLDS_A_LEVEL = re.compile(
    r"(?<![a-z])(?:[LTCD]|TH)[ _-]?0?\d{1,2}(?!\d)"
    r"|(?:vert[a-z]*|dis[ck]s?|ivd|lumb[a-z]*|thora[a-z]*|cervi[a-z]*|sacr[a-z]*|[lbh]wk)[ _-]?[a-z]{0,2}[ _-]?\d",
    re.IGNORECASE,
)
# Okabe and Ito's colours, which also the colour-blind tell apart; black left out. Neighbours along the spine differ,
# and every further seven structures have another shade: the share of white (positive) or black (negative) mixed in.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
SHADES = (0.0, 0.45, -0.35, 0.7, -0.55, 0.25, -0.18, 0.58)


@dataclass(frozen=True)
class Spine:
    """The levels of a label table.

    Args:
        vertebrae: from the bottom upwards, without gaps: one that the table leaves out has no label.
        labels: of vertebrae that have any; the sacrum may have several (S1, sacrum).
        discs: labels by the vertebrae (lower, upper) that the disc lies between.
        names: of these labels, as the table writes them.
    """

    vertebrae: tuple[str, ...]
    labels: Mapping[str, tuple[int, ...]]
    discs: Mapping[tuple[str, str], tuple[int, ...]]
    names: Mapping[int, str]

    @property
    def positions(self) -> dict[int, int]:
        """Place of each label on the way up, vertebrae at even numbers, a disc just above its lower vertebra."""
        rank = {name: 2 * index for index, name in enumerate(self.vertebrae)}
        places = {label: rank[name] for name, labels in self.labels.items() for label in labels}
        for (lower, upper), labels in self.discs.items():
            places |= dict.fromkeys(labels, rank[lower] + 1 if lower in rank else rank.get(upper, 2 * len(rank)) - 1)
        return places

    def gaps(self, present: Collection[str]) -> list[str]:
        """Vertebrae that lack between the lowest and the highest of `present`, where the table has a label for them."""
        places = [index for index, name in enumerate(self.vertebrae) if name in present]
        inside = self.vertebrae[places[0] : places[-1]] if places else ()
        return [name for name in inside if name not in present and name in self.labels and name not in OPTIONAL]


def has_regions(labels: Mapping[str, Any]) -> bool:
    """Whether the `labels` of a dataset.json are regions, names for several values, which overlap."""
    return any(isinstance(value, list | tuple) for value in labels.values())


def values_of(value: Any) -> list[Any]:
    """The values of a label in a dataset.json: several of a region, else one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def read_spine(labels: Mapping[str, Any]) -> Spine:
    """The levels in the `labels` of a dataset.json.

    Raises:
        ValueError: if these labels have no order along the spine; says why in a sentence.
    """
    if has_regions(labels):
        raise ValueError("the labels are regions, which overlap, so no voxel says one level")
    for name, value in labels.items():
        if name != BACKGROUND and (int(value) != float(value) or int(value) == 0):
            raise ValueError(f"{name} is {value}, expected a whole number that is not the background's 0")
    if shared := [name for name, value in labels.items() if list(labels.values()).count(value) > 1]:
        raise ValueError(f"{' and '.join(shared)} have one value, so no voxel says which of them it is")
    vertebrae: dict[str, tuple[int, ...]] = {}
    discs: dict[tuple[str, str], tuple[int, ...]] = {}
    names = {}
    for name, value in labels.items():
        if name in (BACKGROUND, IGNORE):
            continue
        if (vertebra := vertebra_of(name)) is not None:
            vertebrae[vertebra] = (*vertebrae.get(vertebra, ()), int(value))
        elif (between := disc_of(name)) is not None:
            discs[between] = (*discs.get(between, ()), int(value))
        else:
            continue
        names[int(value)] = name
    numbered = [name for name in vertebrae if NUMBERED.match(name)]
    if len(vertebrae) < FEWEST_VERTEBRAE or (numbered and len(numbered) < len(vertebrae)):
        known = [name for name in labels if name != BACKGROUND]
        raise ValueError(
            f"the labels ({', '.join(known[:6])}{' ...' if len(known) > 6 else ''}) name {len(vertebrae)} levels of a "
            f"spine, and an order needs at least {FEWEST_VERTEBRAE}, such as L5, L4, L3"
        )
    twice = [name for name, values in vertebrae.items() if len(values) > 1 and name != SACRUM]
    twice += [f"{upper}/{lower}" for (lower, upper), values in discs.items() if len(values) > 1]
    if twice:
        raise ValueError(f"several labels stand for {', '.join(twice)}; every level needs a label of its own")
    order: tuple[str, ...]
    if numbered:
        numbers = sorted(int(name.split("_")[1]) for name in numbered)
        order = tuple(f"vertebra_{number}" for number in range(numbers[0], numbers[-1] + 1))
    else:
        order = tuple(name for name in VERTEBRAE if name in vertebrae or name not in OPTIONAL)
        inside = [order.index(name) for name in vertebrae]
        order = order[min(inside) : max(inside) + 1]
    return Spine(order, vertebrae, discs, names)


def unread_levels(labels: Iterable[str], spine: Spine) -> list[str]:
    """Names that hold a level and are none of the spine's: they would stay where vertebrae get other numbers."""
    return [name for name in labels if name not in spine.names.values() and HOLDS_A_LEVEL.search(name)]


def vertebra_of(name: str) -> str | None:
    """A vertebra's own name, L5 for vertebrae_L5; None for other structures."""
    if match := NUMBERED.match(name):
        return f"vertebra_{int(match[2])}" if match[1] == "vertebra" else None
    prefix = PREFIX.match(name)
    if prefix and not prefix[1].lower().startswith("vert"):
        return None
    bare = re.sub(r"^TH(?=[0-9])", "T", PREFIX.sub("", name).upper())  # Th12, as Europeans write it
    if bare in ("SACRUM", "S1"):
        return SACRUM
    return bare if bare in VERTEBRAE else None


def disc_of(name: str) -> tuple[str, str] | None:
    """The vertebrae (lower, upper) of a disc, also where the name has them the other way round (T12-L1, L1_T12)."""
    if match := NUMBERED.match(name):
        return (f"vertebra_{int(match[2]) - 1}", f"vertebra_{int(match[2])}") if match[1] == "disc" else None
    sides = [vertebra_of(side) for side in re.split(r"[/_-]", PREFIX.sub("", name))]
    if len(sides) != 2 or None in sides or sides[0] == sides[1]:
        return None
    lower, upper = sorted((side for side in sides if side is not None), key=VERTEBRAE.index)
    return lower, upper


def level_names(names: Mapping[int, str]) -> dict[int, str]:
    """The same label table by SpineMRI's names, whatever it calls its vertebrae and discs; others keep theirs.

    SPIDER's lowest number takes L5's place, the next ones those above it, without T13. Where several labels stand for
    one level, they keep their names too.
    """
    standard: dict[int, str] = {}
    for label, name in names.items():
        ends = [_standard(end) for end in (vertebra_of(name), *reversed(disc_of(name) or ())) if end is not None]
        if ends and None not in ends:
            standard[label] = "/".join(map(str, ends))
    counts = Counter(standard.values())
    return {label: one if counts[one := standard.get(label, name)] == 1 else name for label, name in names.items()}


def is_vertebra(name: str) -> bool:
    return name in VERTEBRAE


def is_spine_table(names: Iterable[str]) -> bool:
    """Whether these label names are spine levels, by SpineMRI's names, another tool's or SPIDER's numbers."""
    return len({_standard(vertebra_of(name)) for name in names} - {None}) >= FEWEST_VERTEBRAE


def position(name: str) -> int | None:
    """Place of a vertebra or disc on the way up from the sacrum; None for other structures."""
    if is_vertebra(name):
        return 2 * VERTEBRAE.index(name)
    neighbours = disc_of(name)
    return sum(map(VERTEBRAE.index, neighbours)) if neighbours and all(map(is_vertebra, neighbours)) else None


def missing_levels(present: Collection[str], used: Collection[str]) -> list[str]:
    """Levels that a case lacks although their neighbours on both sides are there, from the sacrum upwards.

    Args:
        present: names of the structures in the case.
        used: names that occur anywhere in the data set; a kind of structure that nobody annotated is not missing.

    Returns:
        Vertebrae between the case's lowest and highest one, and discs of which both vertebrae are there.
    """
    chain = [name for name in VERTEBRAE if name in present or (name in used and name in USUAL)]
    inside = [index for index, name in enumerate(chain) if name in present]
    vertebrae = [name for name in chain[min(inside) : max(inside) + 1] if name not in present] if inside else []
    discs = [name for name in used if name not in present and set(disc_of(name) or "?") <= set(present)]
    return vertebrae + sorted(discs, key=lambda name: position(name) or 0)


def colour_of(name: str, label: int) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of a structure: one colour per level in every picture and file.

    A level has it whatever its label; what is no level has one by its label.
    """
    place = label
    if (vertebra := _standard(vertebra_of(name))) is not None:
        place = 2 * VERTEBRAE.index(vertebra)
    elif (upper := _standard((disc_of(name) or (None, None))[1])) is not None:
        place = 2 * VERTEBRAE.index(upper) - 1
    base = COLOURS[place % len(COLOURS)]
    shade = SHADES[place // len(COLOURS) % len(SHADES)]
    target = 255 if shade > 0 else 0
    red, green, blue = (
        round((1 - abs(shade)) * int(base[start : start + 2], 16) + abs(shade) * target) for start in (1, 3, 5)
    )
    return red, green, blue


def _standard(vertebra: str | None) -> str | None:
    """SpineMRI's name of a vertebra; the lowest numbered one is taken for L5, and nobody for one with an L6 or T13."""
    if vertebra is None or vertebra in VERTEBRAE:
        return vertebra
    number = int(vertebra.partition("_")[2])
    return USUAL[number] if 0 <= number < len(USUAL) else None
