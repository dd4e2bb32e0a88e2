"""Break one thing about classes, see its test turn red: `python -m tests.methods.class_mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_COMMON, _CLIENT = "common/undertone", "client/undertone_client"
_WORDS, _STUDIES, _NODE = (
    "methods/test_classes.py",
    "methods/test_studies_with_classes.py",
    "client/compute/test_classes.py",
)
_PLAN, _LIST = "study/test_classes.py", "core/test_classes.py"
_AGG = f"{_COMMON}/methods/textual_inversion/dpagg_ti.py"
_DPSGD = f"{_COMMON}/methods/textual_inversion/dpsgd_ti.py"
_TOKEN = f"{_COMMON}/methods/textual_inversion/token.py"
_CLASSES = f"{_COMMON}/methods/classes.py"
_SUM = f"{_WORDS}::test_adding_a_unit_of_two_classes_moves_the_integer_sum_by_s_c_at_most"
_ROW = f"{_WORDS}::test_a_row_is_shares_and_each_class_times_its_share"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # The row
    (
        "each class clipped by itself",
        f"{_COMMON}/privacy/quantise.py",
        "quantised[index] = _quantise_row(rows[index], grid)",
        "quantised[index] = np.concatenate([_quantise_row(part, grid) for part in np.split(rows[index], 3)])",
        _SUM,
    ),
    (
        "no clip of a row with classes",
        f"{_COMMON}/privacy/quantise.py",
        "quantised[index] = _quantise_row(rows[index], grid)",
        "quantised[index] = np.trunc(rows[index].astype(np.float64) * grid.scale)",
        _SUM,
    ),
    (
        "words without their share, in a row",
        _AGG,
        "weighted = learned * np.repeat(shares, learned.shape[1] // shares.shape[1], axis=1)",
        "weighted = learned",
        _ROW,
    ),
    (
        "own frequencies as denominators, in a row",
        _AGG,
        "weighted = learned * np.repeat(shares, ",
        "weighted = learned * np.repeat(shares / np.maximum(shares.mean(0), 1e-9), ",
        _SUM,
    ),
    (
        "counts of images for shares",
        _CLASSES,
        "np.bincount(places, minlength=count) / len(places)",
        "np.bincount(places, minlength=count).astype(np.float64)",
        _ROW,
    ),
    (
        "every image teaches the first class's word",
        _TOKEN,
        "text.replace(self.first, self._of_class[place])",
        "text",
        _ROW,
    ),
    (
        "gradients in the first class's word alone",
        _DPSGD,
        "return super().rows(base, state, [self.words.by_class(unit) for unit in units], progress)",
        "return super().rows(base, state, units, progress)",
        f"{_WORDS}::test_gradients_are_in_the_words_of_a_units_own_classes",
    ),
    (
        "a record without a class counts as one of the first",
        _TOKEN,
        "if unit.classes is None or not self._of_class or unit.classes.max() >= len(self._of_class):",
        "if unit.classes is None:\n            return np.zeros(len(unit.captions), dtype=np.int64)\n        if False:",
        f"{_WORDS}::test_records_without_a_class_make_no_row",
    ),
    (
        "words by the place in the list, not by name",
        _TOKEN,
        "[self.tokens.index(token) for token in self._of_class]",
        "list(range(len(self._of_class)))",
        f"{_WORDS}::test_the_order_in_which_classes_were_typed_moves_no_row",
    ),
    # The step
    (
        "a number in place of noisy shares, in a step",
        _AGG,
        "divided = divisors(mean[:count] / a, FLOOR * deviation / a)",
        "divided = np.full(count, float(count))",
        f"{_WORDS}::test_a_word_is_its_noisy_sum_over_its_noisy_share",
    ),
    (
        "shares without their scale",
        _AGG,
        "divisors(mean[:count] / a,",
        "divisors(mean[:count],",
        f"{_WORDS}::test_a_word_is_its_noisy_sum_over_its_noisy_share",
    ),
    (
        "no floor",
        _AGG,
        "FLOOR * deviation / a)",
        "0.0)",
        f"{_WORDS}::test_below_the_floor_a_word_goes_to_the_start",
    ),
    (
        "divided by the floor and not shrunk",
        _CLASSES,
        "np.divide(np.clip(part, 0.0, 1.0), least,",
        "np.divide(np.ones_like(part), least,",
        f"{_WORDS}::test_an_empty_class_hardly_moves_and_the_others_do",
    ),
    (
        "a floor of one deviation",
        _CLASSES,
        "FLOOR = 4.0",
        "FLOOR = 1.0",
        f"{_WORDS}::test_the_floor_is_four_deviations_of_a_share",
    ),
    (
        "gradients not divided by shares",
        _DPSGD,
        "mean = (mean.reshape(len(divided), -1) * divided[:, None]).reshape(-1)",
        "pass",
        f"{_WORDS}::test_gradients_of_a_rare_class_count_as_much",
    ),
    (
        "the floor that plan prints is another",
        f"{_COMMON}/study/resolve.py",
        "one.asked.shares.floor(stage.sigma, stage.grid.scale)",
        "one.asked.shares.floor(stage.sigma, 2 * stage.grid.scale)",
        f"{_PLAN}::test_plan_says_the_floor_in_units",
    ),
    # The list
    (
        "the class list copied from data",
        f"{_CLIENT}/compute/reading.py",
        "np.array([plan.data.class_of(one) for one in columns]) if self._has_classes else None",
        "np.unique([one[plan.data.class_column or ''] for one in columns], return_inverse=True)[1]"
        " if self._has_classes else None",
        f"{_NODE}::test_each_record_brings_its_place_in_the_plans_list",
    ),
    (
        "the class list left to the data",
        f"{_COMMON}/study/schema.py",
        "        if not listed:\n",
        "        if False:\n",
        f"{_PLAN}::test_a_study_says_column_and_list_or_neither",
    ),
    (
        "a method's own list",
        f"{_COMMON}/methods/classed.py",
        "    if method.classes:\n",
        "    if False:\n",
        f"{_WORDS}::test_the_list_comes_from_the_study_alone",
    ),
    (
        "a method of other classes than the plan's",
        f"{_COMMON}/study/planned.py",
        "    check_classes(method, plan.data.classes)\n",
        "",
        f"{_PLAN}::test_a_plan_with_another_list_is_none",
    ),
    (
        "a plan of no class",
        f"{_COMMON}/methods/classed.py",
        "    if method.per_class and not classes:\n",
        "    if False:\n",
        f"{_WORDS}::test_the_list_comes_from_the_study_alone",
    ),
    (
        "verify takes words of other classes",
        f"{_COMMON}/release/verify.py",
        "        check_classes(method, plan.data.classes)\n",
        "",
        f"{_PLAN}::test_verify_refuses_words_of_other_classes_than_the_plans",
    ),
    (
        "a class like another",
        f"{_COMMON}/core/classes.py",
        "        if name.casefold() in seen:\n",
        "        if name in seen:\n",
        f"{_LIST}::test_what_is_no_list_is_named",
    ),
    # Records
    (
        "records of unlisted classes stay",
        f"{_CLIENT}/compute/reading.py",
        "if self.latents.readable[index] and plan.data.takes(records[index].columns)",
        "if self.latents.readable[index]",
        f"{_NODE}::test_a_record_of_an_unlisted_class_drops_out_and_the_unit_goes_on",
    ),
    (
        "an unlisted class is the nearest listed one",
        f"{_COMMON}/core/classes.py",
        "    return classes.index(said) if said in classes else None\n",
        "    near = [place for place, name in enumerate(classes) if name.casefold() == said.casefold()]\n"
        "    return near[0] if near else None\n",
        f"{_NODE}::test_a_record_of_an_unlisted_class_drops_out_and_the_unit_goes_on",
    ),
    (
        "what was approved names no class",
        f"{_CLIENT}/registration/registered.py",
        "    fields = [*caption_columns(caption), *([] if of_class is None else [of_class])]\n",
        "    fields = caption_columns(caption)\n",
        f"{_NODE}::test_the_class_column_is_registered_and_nothing_else_beside_the_captions",
    ),
    # What people read
    (
        "one prompt for all classes",
        f"{_COMMON}/methods/classed.py",
        'return found if len(set(found.values())) > 1 else {"": plain}',
        'return {"": plain}',
        f"{_PLAN}::test_what_people_read_names_the_classes",
    ),
]


def main() -> int:
    """Print a line for each mutant; 1 where one survived."""
    return run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS)


if __name__ == "__main__":
    sys.exit(main())
