"""The round figure that a site publishes for its units (PRIVACY 6).

It is all that anybody outside learns of a data set's size, so one unit more or less must not show in it: the operator
chooses it, once, and nothing updates it. It stands in the update's denominator, so it may not be far from the count.
"""

from undertone.errors import InputError

_FAR = 0.2
_SMALL = 10


def step_of(count: int) -> int:
    """How far apart round figures of this size are: two digits at most; fives below 100, where two digits are all.

    A site of fewer than ten units has no round figure that is near: every number is one, and a site's policy asks for
    more units than that.
    """
    if count < _SMALL:
        return 1
    return 5 if count < _SMALL**2 else int(10 ** (len(str(count)) - 2))


def check_round(figure: int) -> None:
    """Refuse a figure that says more than a round one.

    Raises:
        InputError: names the nearest round figures.
    """
    if figure % step_of(figure):
        raise InputError(f"--publish {figure} is no round figure: {_nearest(figure)}; it is public, so it stays coarse")


def check_near(figure: int, count: int) -> None:
    """Refuse a figure that is far from the count. The message has the count: it is for the operator alone.

    Raises:
        InputError: names the nearest round figures.
    """
    if abs(figure - count) > _FAR * count:
        raise InputError(
            f"--publish {figure} is more than {_FAR:.0%} away from the {count} units that were found: {_nearest(count)}"
        )


def _nearest(count: int) -> str:
    below = count - count % step_of(count)
    above = below + step_of(count)
    near = [figure for figure in (below, above) if (figure and abs(figure - count) <= _FAR * count) or count == figure]
    return f"{' or '.join(map(str, near))} would do"
