"""Secret sharing against linear algebra, and the search for who revealed a wrong share."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertone.errors import UnfaithfulSite
from undertone.secagg.reconstruction import MOST_SUBSETS, Reconstructor, _candidates
from undertone.secagg.sealing import coefficients
from undertone.secagg.shamir import PRIME, deal, is_share, reconstruct, value_at

SECRET = bytes(range(100, 132))


def test_the_modulus_is_prime():
    assert PRIME == 2**256 + 297
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53):
        chain = [pow(base, odd << k, PRIME) for k in range(twos)]
        assert chain[0] == 1 or PRIME - 1 in chain


def solve(points, values):
    """The polynomial through `points` by Gaussian elimination on the Vandermonde matrix: slow and obvious."""
    size = len(points)
    rows = [[pow(x, k, PRIME) for k in range(size)] + [y] for x, y in zip(points, values, strict=True)]
    for column in range(size):
        pivot = next(r for r in range(column, size) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], PRIME - 2, PRIME)
        rows[column] = [entry * inverse % PRIME for entry in rows[column]]
        for r in range(size):
            if r != column:
                factor = rows[r][column]
                rows[r] = [(a - factor * b) % PRIME for a, b in zip(rows[r], rows[column], strict=True)]
    return [row[-1] for row in rows]


@settings(max_examples=40, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), t=st.integers(1, 6), extra=st.integers(0, 3), data=st.data())
def test_any_t_shares_rebuild_and_agree_with_linear_algebra(secret, t, extra, data):
    polynomial = data.draw(st.lists(st.integers(0, PRIME - 1), min_size=t - 1, max_size=t - 1))
    points = sorted(data.draw(st.sets(st.integers(1, 1000), min_size=t + extra, max_size=t + extra)))
    shares = dict(zip(points, deal(secret, polynomial, points), strict=True))
    assert all(is_share(share) for share in shares.values())
    for chosen in itertools.combinations(points, t):
        subset = {x: shares[x] for x in chosen}
        assert reconstruct(subset) == secret
        values = [int.from_bytes(share, "big") for share in subset.values()]
        assert solve(chosen, values) == [int.from_bytes(secret, "big"), *polynomial]
        assert all(value_at(x, subset) == int.from_bytes(shares[x], "big") for x in points)


def test_fewer_than_t_shares_fit_every_secret():
    shares = dict(zip((1, 2), deal(SECRET, [5, 6], [1, 2]), strict=True))
    for other in (0, 1, 2**256 - 1):
        # Together with any value at 0 they make a polynomial of degree 2: all secrets are as likely.
        coefficients_ = solve((0, 1, 2), [other, *(int.from_bytes(share, "big") for share in shares.values())])
        assert deal(other.to_bytes(32, "big"), coefficients_[1:], [1, 2]) == list(shares.values())


def test_a_value_that_is_no_secret():
    wide = {1: (2**256).to_bytes(33, "big")}
    assert reconstruct(wide) is None
    assert reconstruct({1: (2**256 - 1).to_bytes(33, "big")}) == b"\xff" * 32


def test_the_one_spelling_of_a_share():
    assert is_share((PRIME - 1).to_bytes(33, "big"))
    assert not is_share(PRIME.to_bytes(33, "big"))
    assert not is_share(b"\xff" * 33)
    assert not is_share(bytes(32))


def test_polynomials_differ_by_session_secret_and_power():
    made = [
        *coefficients(bytes(32), bytes(32), 1, 5),
        *coefficients(bytes(32), bytes(32), 2, 5),
        *coefficients(bytes(32), b"\1" * 32, 1, 5),
        *coefficients(b"\1" * 32, bytes(32), 1, 5),
    ]
    assert len(set(made)) == 16
    assert all(0 <= value < PRIME for value in made)
    assert coefficients(bytes(32), bytes(32), 1, 1) == []


def dealt(n, t):
    points = list(range(1, n + 1))
    return dict(zip(points, deal(SECRET, coefficients(bytes(32), bytes(32), 1, t), points), strict=True))


def spoiled(shares, *points):
    return {x: (bytes(32) + b"\7" if x in points else share) for x, share in shares.items()}


def fits(secret):
    return secret == SECRET


@pytest.mark.parametrize("liars", [(1,), (2, 7), (1, 2, 3), (4, 9, 10)])
def test_liars_are_found_while_t_shares_are_right(liars):
    opener = Reconstructor(7, 3)
    assert opener.secret(3, spoiled(dealt(10, 7), *liars), fits, "site-003") == SECRET
    assert sorted(opener.wrong) == [(x - 1, 3) for x in liars]


def test_a_liar_beyond_the_first_t_is_not_even_asked():
    opener = Reconstructor(7, 3)
    assert opener.secret(3, spoiled(dealt(10, 7), 10), fits, "site-003") == SECRET
    assert opener.wrong == []


def test_a_known_liar_is_asked_last():
    opener, tried = Reconstructor(7, 3), []

    def counting(secret):
        tried.append(secret)
        return fits(secret)

    for owner in range(3):
        opener.secret(owner, spoiled(dealt(10, 7), 1), counting, "x")
    assert tried.count(SECRET) == 3
    assert opener.wrong == [(0, 0)]


def test_too_many_wrong_shares_end_with_the_owners_name():
    with pytest.raises(UnfaithfulSite, match="site-003"):
        Reconstructor(7, 3).secret(3, spoiled(dealt(10, 7), 1, 2, 3, 4), fits, "site-003")


@pytest.mark.parametrize(("shares", "budget", "blamed"), [(10, 10_000, "x"), (9, 10_000, ""), (10, 119, "")])
def test_an_owner_is_blamed_where_so_many_shares_prove_it(shares, budget, blamed):
    # Of ten at most three lie: seven that do not would fit. Of nine, or of subsets not all tried, that is not known.
    opener = Reconstructor(7, 3)
    opener._left = budget
    with pytest.raises(UnfaithfulSite) as caught:
        opener.secret(3, dealt(shares, 7), lambda _: False, "x")
    assert caught.value.blamed == blamed


def test_one_liar_among_a_hundred_and_an_end_to_the_search():
    opener = Reconstructor(67, 33)
    assert opener.secret(0, spoiled(dealt(100, 67), 5, 50), fits, "x") == SECRET
    assert sorted(opener.wrong) == [(4, 0), (49, 0)]
    subsets = list(_candidates(list(range(1, 101)), 67))
    assert len(subsets) == MOST_SUBSETS
    assert all(len(set(subset)) == 67 for subset in subsets[:100])


def test_the_search_is_bounded_over_all_secrets():
    opener, tried = Reconstructor(4, 1), []
    for owner in range(3):
        with pytest.raises(UnfaithfulSite):
            opener.secret(owner, dealt(14, 4), lambda secret: bool(tried.append(secret)), "x")
    # The first try of each is free, then 1001 subsets a secret, until the budget ends.
    assert len(tried) == 3 + 3 * 1001
    opener._left = 10
    with pytest.raises(UnfaithfulSite):
        opener.secret(9, dealt(14, 4), lambda secret: bool(tried.append(secret)), "x")
    assert len(tried) == 3 + 3 * 1001 + 1 + 10
