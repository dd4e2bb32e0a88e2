"""How many sites must help to open a sum, and how many may help a lying coordinator: t, c and their conditions.

n sites are on the roster, t of them must help to open a sum, and c of them may help a lying coordinator. Two lists of
survivors would give away a site's vector. Each list needs t signatures and an honest site signs one, so two lists need
2t <= (n - c) + 2c: 2t > n + c rules them out. A sum hides an honest site's vector among the t - c or more honest ones
in it, so at least two of those must be there.
"""


def default_threshold(sites: int) -> int:
    """The default t = floor(2n/3) + 1."""
    return 2 * sites // 3 + 1


def default_colluders(sites: int, threshold: int) -> int:
    """The default c = max(1, min(floor(n/3), t - 2)) (PRIVACY 8)."""
    return max(1, min(sites // 3, threshold - 2))


def fault(sites: int, threshold: int, colluders: int, *, distributed: bool) -> str | None:
    """What is wrong with these numbers, and which would work; None if nothing is wrong."""
    if sites < 3:
        return (
            f"{sites} sites cannot use secure aggregation, where each would learn the other's vector from the sum; "
            'add sites, or say aggregation.mode = "plain"'
        )
    if not 1 <= threshold <= sites:
        return f"aggregation.threshold = {threshold} with {sites} sites; give at most {sites}, or leave it out"
    if colluders < 0:
        return f"aggregation.colluders = {colluders}; give 0 or more"
    if distributed and colluders < 1:
        return (
            'aggregation.colluders = 0 with privacy.noise = "distributed": each site can take its own noise '
            "share off; give at least 1"
        )
    if threshold - colluders < 2:
        return (
            f"aggregation.threshold = {threshold} with aggregation.colluders = {colluders} leaves fewer than two "
            f"honest sites in a sum; {_remedy(sites)}"
        )
    if 2 * threshold <= sites + colluders:
        return (
            f"aggregation.threshold = {threshold} of {sites} sites does not withstand aggregation.colluders = "
            f"{colluders}: 2t > n + c must hold; {_remedy(sites)}"
        )
    return None


def _remedy(sites: int) -> str:
    threshold = default_threshold(sites)
    return (
        f"threshold = {threshold} and colluders = {default_colluders(sites, threshold)} would work, or leave both out"
    )
