"""Break one thing about public directions, see its test turn red: `python -m tests.methods.mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_GRADIENT = "common/undertone/methods/gradient"
_METHOD, _DIRECTIONS = f"{_GRADIENT}/method.py", f"{_GRADIENT}/directions.py"
_PUBLIC, _KEPT = f"{_GRADIENT}/public_directions.py", f"{_GRADIENT}/kept_directions.py"
_NUMBERS, _ROWS = "methods/test_directions.py", "methods/test_public_directions.py"
_PROJECT = "found.append(directions.project(gradients[: len(part)]))"
_KEYS = f"{_ROWS}::test_others_are_made_for_another"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # The row
    (
        "directions from the units at hand",
        _METHOD,
        _PROJECT,
        "found.append((gradients[: len(part)] @ np.linalg.qr(gradients.T)[0])[:, : c.size])",
        f"{_ROWS}::test_a_row_is_equal_to_the_bit_whoever_stands_beside_it",
    ),
    (
        "rows not projected",
        _METHOD,
        _PROJECT,
        "found.append(gradients[: len(part), : c.size])",
        f"{_ROWS}::test_a_row_is_the_gradient_at_w_in_public_directions",
    ),
    (
        "gradients at w_0 in every round",
        _METHOD,
        "w = directions.moved(self._start(base.pinned), c)",
        "w = self._start(base.pinned)",
        f"{_ROWS}::test_a_row_is_the_gradient_at_w_in_public_directions",
    ),
    (
        "no clip after the projection",
        "common/undertone/privacy/quantise.py",
        "quantised[index] = _quantise_row(rows[index], grid)",
        "quantised[index] = np.trunc(rows[index].astype(np.float64) * grid.scale)",
        f"{_ROWS}::test_a_unit_moves_the_integer_sum_by_s_c_at_most_whatever_the_directions_are",
    ),
    (
        "all gradients projected at once",
        _DIRECTIONS,
        "rows[number] = self.basis @ gradient.copy()",
        "rows[:] = gradients @ self.basis.T",
        f"{_NUMBERS}::test_a_projected_row_is_equal_to_the_bit_wherever_its_gradient_stands",
    ),
    (
        "a last batch of another shape",
        _METHOD,
        "for _ in range(at_once - len(part))",
        "for _ in range(0)",
        f"{_ROWS}::test_a_last_batch_has_the_shape_of_the_others",
    ),
    (
        "long gradients summed though their rows are short",
        _METHOD,
        "return not self.options.directions and self._too_long(base)",
        "return self._too_long(base)",
        f"{_ROWS}::test_long_gradients_give_short_rows_that_are_kept_and_not_summed",
    ),
    # What they are made of
    (
        "of the drawings that set C",
        _PUBLIC,
        "_SEED, _HELD_OUT_SEED, _HELD_OUT = 20_300_101,",
        "_SEED, _HELD_OUT_SEED, _HELD_OUT = 20261126,",
        f"{_ROWS}::test_they_are_made_of_drawings_alone_and_of_others_than_those_that_set_c",
    ),
    (
        "of whatever this process met",
        _PUBLIC,
        "public_units(base, seed, ",
        "public_units(base, seed + id(progress) % 4096, ",
        f"{_ROWS}::test_they_are_the_same_whoever_makes_them_and_whatever_units_were_there_before",
    ),
    (
        "C from whole gradients",
        _METHOD,
        "rows = self.rows(base, start, part, lambda _steps: None).astype(np.float64)",
        "rows = type(self)(self.options.model_copy(update={'directions': 0})).rows("
        "base, self._start(base.pinned), part, lambda _steps: None).astype(np.float64)",
        f"{_ROWS}::test_c_is_the_length_of_public_rows_as_units_have_them",
    ),
    (
        "singular vectors as they come",
        _DIRECTIONS,
        "combined = (a @ b).T @ left",
        "combined = left",
        f"{_NUMBERS}::test_they_stand_firm_where_single_singular_vectors_do_not",
    ),
    (
        "long gradients count more",
        _DIRECTIONS,
        "scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)",
        "scale = np.ones_like(lengths)",
        f"{_NUMBERS}::test_how_long_a_drawings_gradient_is_does_not_matter",
    ),
    # Plan and node agree
    (
        "the plan's figures not looked at",
        _PUBLIC,
        "if check and not same_directions(facts.fingerprint, check):",
        "if False and not same_directions(facts.fingerprint, check):",
        f"{_ROWS}::test_a_plan_says_which_they_are_and_another_machine_refuses_others",
    ),
    (
        "the plan's figures not asked for",
        _PUBLIC,
        "if not self.options.direction_check:",
        "if False:",
        f"{_ROWS}::test_a_plan_that_does_not_say_is_refused",
    ),
    (
        "a coordinator finds out at the release",
        "server/undertone_server/run_study.py",
        "method.prepare(base)  # now: at the release it would be too late",
        "pass",
        "methods/test_rounds_of_gradients.py::"
        "test_a_coordinator_that_makes_other_directions_refuses_before_a_site_is_asked",
    ),
    (
        "any figures will do",
        _DIRECTIONS,
        "bool(np.abs(one - two).max() <= _TOLERANCE)",
        "True",
        f"{_NUMBERS}::test_a_fingerprint_tells_other_directions_and_forgives_rounding",
    ),
    (
        "a node makes what a plan asks, of whatever size",
        _PUBLIC,
        "self._check_size()  # at a node too, before anything is as large as a plan says",
        "pass",
        f"{_ROWS}::test_a_node_makes_none_that_are_too_large",
    ),
    # What this machine keeps
    ("other code", _PUBLIC, '"code": package_sha256(),', "", f"{_KEYS}_base_or_other_code"),
    ("another base", _PUBLIC, '"base": dict(self.base.files),', "", f"{_KEYS}_base_or_other_code"),
    ("other options", _PUBLIC, '"options": self.options.directions_follow_from(),', "", f"{_KEYS}_option_or_caption"),
    (
        "what is kept not held against its figures",
        _KEPT,
        "return found if same_directions(found.fingerprint(), facts.fingerprint) else None",
        "return found",
        f"{_ROWS}::test_an_entry_that_is_whole_and_another_is_made_anew",
    ),
]


def main() -> int:
    """Print a line for each mutant; 1 where one survived."""
    return run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS)


if __name__ == "__main__":
    sys.exit(main())
