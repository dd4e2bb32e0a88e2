"""Break one thing about prototypes, see its test turn red: `python -m tests.methods.prototype_mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_PROTOTYPES = "common/undertone/methods/prototypes"
_METHOD, _MIXTURE, _ROWS = (f"{_PROTOTYPES}/{name}.py" for name in ("method", "mixture", "rows"))
_PUBLIC, _KEPT, _DRAWER = (f"{_PROTOTYPES}/{name}.py" for name in ("public_latents", "kept_latents", "drawer"))
_STEPS, _UNITS, _STUDIES, _DRAWN = (
    f"methods/test_prototype{name}.py" for name in ("s", "_rows", "_studies", "_drawer")
)
_SUM = f"{_UNITS}::test_adding_a_unit_moves_the_integer_sum_of_each_round_by_s_c_at_most"
_LLOYD = f"{_STEPS}::test_without_noise_it_is_lloyds_algorithm_to_rounding"
_LONGEST = f"{_UNITS}::test_no_row_is_longer_than_its_bound"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # The row
    (
        "own counts as denominators",
        _METHOD,
        "                rows[number] = self._row(one, of_classes, at)\n        return rows",
        "                rows[number] = self._row(one, of_classes, at)\n"
        "        rows[:, self.sizes.slots :] /= max(1, np.count_nonzero(rows[:, 0]))\n"
        "        return rows",
        _SUM,
    ),
    (
        "counts clipped apart from sums",
        "common/undertone/privacy/quantise.py",
        "quantised[index] = _quantise_row(rows[index], grid)",
        "quantised[index] = np.concatenate([_quantise_row(part, grid) for part in np.split(rows[index], [6])])",
        _SUM,
    ),
    (
        "centres from private data",
        _METHOD,
        "        at = self.prototypes(state)\n",
        "        at = self.prototypes(state)\n"
        "        at.centres[:, 0] = np.nan_to_num(np.mean([one.mean(0) for one in z], axis=0), posinf=0.0)\n",
        _SUM,
    ),
    (
        "no clip of a row",
        "common/undertone/privacy/quantise.py",
        "quantised[index] = _quantise_row(rows[index], grid)",
        "quantised[index] = np.trunc(rows[index].astype(np.float64) * grid.scale)",
        _SUM,
    ),
    (
        "residuals not cut",
        _ROWS,
        "return nearest, away[nearest] * (radius / length) if length > radius else away[nearest]",
        "return nearest, away[nearest]",
        _LONGEST,
    ),
    (
        "moments without the root of two",
        _MIXTURE,
        "matrix[..., rows, columns] * np.where(rows == columns, 1.0, sqrt(2))",
        "matrix[..., rows, columns] * 1.0",
        f"{_STEPS}::test_packing_keeps_lengths_and_comes_back",
    ),
    (
        "moments not divided by R",
        _ROWS,
        "moments[place] += packed(np.outer(residual, residual)) / radius",
        "moments[place] += packed(np.outer(residual, residual))",
        _LONGEST,
    ),
    (
        "records summed and not averaged",
        _ROWS,
        "return np.concatenate([counts, residuals.reshape(-1)]) / len(z)",
        "return np.concatenate([counts, residuals.reshape(-1)])",
        _LONGEST,
    ),
    (
        "nearest of any class",
        _ROWS,
        "nearest, residual = _nearest(one, at.centres[place], radius)\n"
        "        counts[place * sizes.centres + nearest] += count_weight\n"
        "        residuals",
        "nearest, residual = _nearest(one, at.centres[0], radius)\n"
        "        counts[place * sizes.centres + nearest] += count_weight\n"
        "        residuals",
        _LLOYD,
    ),
    (
        "latents whitened together",
        _PUBLIC,
        "                found[number] = self.into @ (latent.reshape(-1) - self.mean)\n        return found",
        "                found[number] = self.into @ (latent.reshape(-1) - self.mean)\n"
        "        return found - 1e-6 * np.nan_to_num(found).mean(axis=0)",
        f"{_STEPS}::test_bits_of_coordinates_follow_from_one_latent",
    ),
    (
        "a record without a class counts as one of the first",
        _METHOD,
        "if unit.classes is None or unit.classes.max() >= len(self.classes):",
        "if unit.classes is None:",
        f"{_STEPS}::test_records_without_a_class_make_no_row",
    ),
    (
        "classes by their place in the list",
        _METHOD,
        "order = sorted(self.classes)",
        "order = list(self.classes)",
        f"{_STEPS}::test_the_order_in_which_classes_were_typed_moves_no_row",
    ),
    # The step
    (
        "the floor of a centre left out",
        _MIXTURE,
        "divisors(counts, FLOOR * deviation / count_weight)",
        "divisors(counts, 0.0)",
        f"{_STEPS}::test_below_the_floor_a_centre_stays_nearly_where_it_was",
    ),
    (
        "the floor of a covariance left out",
        _MIXTURE,
        "(divided,) = divisors(np.array([count]), floor)",
        "(divided,) = divisors(np.array([count]), 0.0)",
        f"{_STEPS}::test_a_class_below_the_floor_has_a_part_of_what_tells_it_from_the_others",
    ),
    (
        "noise not taken off before covariances are told apart",
        _MIXTURE,
        "signal = 1.0 - len(away) * (noise * divided) ** 2 / distance if distance > 0 else 0.0",
        "signal = 1.0",
        f"{_STEPS}::test_shrinkage_takes_off_what_noise_adds",
    ),
    (
        "no least eigenvalue",
        _MIXTURE,
        "np.sqrt(np.maximum(values, _LEAST_VARIANCE))",
        "np.sqrt(np.abs(values))",
        f"{_STEPS}::test_a_noisy_covariance_that_is_none_still_has_a_root",
    ),
    (
        "centres go anywhere",
        _MIXTURE,
        "replace(before, centres=centres * within)",
        "replace(before, centres=centres)",
        f"{_STEPS}::test_no_centre_leaves_the_public_ball",
    ),
    (
        "weights without a floor",
        _MIXTURE,
        "kept = np.maximum(counts, 0.0) * np.clip(part, 0.0, 1.0)",
        "kept = np.maximum(counts, 0.0)",
        f"{_STEPS}::test_weights_are_noisy_counts_and_less_below_the_floor",
    ),
    # What is public, and what is sent
    (
        "the plan's figures not looked at",
        _KEPT,
        "if check and not same_directions(latents.fingerprint(), check):",
        "if False:",
        f"{_STUDIES}::test_a_coordinator_that_makes_other_latents_refuses_before_a_site_is_asked",
    ),
    (
        "a plan without figures taken",
        _METHOD,
        "if not self.options.public_check:",
        "if False:",
        f"{_STEPS}::test_a_plan_says_which_they_are_and_others_are_refused",
    ),
    (
        "kinds left out of what public latents are found by",
        _KEPT,
        '        "kinds": list(wanted.kinds),\n',
        "",
        f"{_STEPS}::test_damaged_and_other_entries_are_made_again",
    ),
    (
        "centres from anywhere taken at a node",
        _METHOD,
        "if longest > 1.0001 * self.sizes.farthest:",
        "if False:",
        f"{_STEPS}::test_nodes_refuse_prototypes_that_no_step_can_have_made",
    ),
    (
        "a last stage of several rounds",
        "common/undertone/study/settling.py",
        "if wanted is not None and left != wanted:",
        "if False:",
        f"{_STUDIES}::test_a_plan_says_both_stages_and_refuses_what_it_would_not_use",
    ),
    (
        "a clip norm that nobody reads",
        "common/undertone/study/resolve.py",
        'if study.privacy.clip_norm != "auto" and last.clip_norm is not None:',
        "if False:",
        f"{_STUDIES}::test_a_plan_says_both_stages_and_refuses_what_it_would_not_use",
    ),
    # What is drawn
    (
        "steps that are 4 % too short",
        _DRAWER,
        "self.centres[of_class, centre] + np.tensordot(g, factor, axes=1)",
        "self.centres[of_class, centre] + 0.96 * np.tensordot(g, factor, axes=1)",
        f"{_DRAWN}::test_around_a_centre_draws_have_its_mean_and_covariance_and_no_other",
    ),
    (
        "all classes step alike",
        _DRAWER,
        "factor = self.factors[of_class]",
        "factor = self.factors[0]",
        f"{_DRAWN}::test_each_class_steps_by_its_own_factor",
    ),
    (
        "centres drawn alike",
        _DRAWER,
        "np.searchsorted(np.cumsum(self.shares), u",
        "np.searchsorted(np.arange(1, 1 + self.shares.size) / self.shares.size, u",
        f"{_DRAWN}::test_centres_are_drawn_by_their_weights_and_no_others",
    ),
]


def main() -> int:
    """Print a line for each mutant; 1 where one survived."""
    return run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS)


if __name__ == "__main__":
    sys.exit(main())
