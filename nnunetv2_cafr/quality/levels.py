"""Names of spine levels, as SpineMRI writes them: vertebrae S, L5 ... C1, and discs by upper and lower, L4/L5."""

from collections.abc import Collection, Iterable

# From the sacrum upwards. L6 and T13 occur in some people only, so nothing is missing where they are absent.
VERTEBRAE = (
    *("S", "L6"),
    *(f"L{n}" for n in range(5, 0, -1)),
    *(f"T{n}" for n in range(13, 0, -1)),
    *(f"C{n}" for n in range(7, 0, -1)),
)
OPTIONAL = ("L6", "T13")
SACRUM = "S"
FEWEST_VERTEBRAE = 3  # names in a label table that make it one of spine levels


def is_vertebra(name: str) -> bool:
    return name in VERTEBRAE


def neighbours_of_disc(name: str) -> tuple[str, str] | None:
    """The vertebrae (upper, lower) that a disc lies between; None if `name` is no disc."""
    upper, slash, lower = name.partition("/")
    return (upper, lower) if slash and is_vertebra(upper) and is_vertebra(lower) else None


def is_spine_table(names: Iterable[str]) -> bool:
    """Whether these label names are spine levels."""
    return sum(map(is_vertebra, names)) >= FEWEST_VERTEBRAE


def position(name: str) -> int | None:
    """Place of a vertebra or disc on the way up from the sacrum; None for other structures."""
    if is_vertebra(name):
        return 2 * VERTEBRAE.index(name)
    neighbours = neighbours_of_disc(name)
    return None if neighbours is None else sum(map(VERTEBRAE.index, neighbours))


def missing_levels(present: Collection[str], used: Collection[str]) -> list[str]:
    """Levels that a case lacks although their neighbours on both sides are there, from the sacrum upwards.

    Args:
        present: names of the structures in the case.
        used: names that occur anywhere in the data set; a kind of structure that nobody annotated is not missing.

    Returns:
        Vertebrae between the case's lowest and highest one, and discs of which both vertebrae are there.
    """
    chain = [name for name in VERTEBRAE if name in present or (name in used and name not in OPTIONAL)]
    inside = [index for index, name in enumerate(chain) if name in present]
    vertebrae = [name for name in chain[min(inside) : max(inside) + 1] if name not in present] if inside else []
    discs = [name for name in used if name not in present and set(neighbours_of_disc(name) or "?") <= set(present)]
    return vertebrae + sorted(discs, key=lambda name: position(name) or 0)
