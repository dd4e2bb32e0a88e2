"""Break one thing about bases that are told a class or nothing: `python -m tests.methods.base_mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_MODELS, _LDM = "common/undertone/models", "common/undertone/methods/ldm"
_FITNESS, _KINDS, _BASE = f"{_MODELS}/unet_fitness.py", f"{_MODELS}/kinds.py", f"{_MODELS}/base.py"
_BLOCKS, _BARE, _CLASS = f"{_LDM}/blocks.py", "models/test_bare_bases.py", "methods/test_class_bases.py"
_NAMED, _DRAWN = "models/test_unfit_bare_bases.py", "models/test_bare_bases_draw.py"
_UNFIT = f"{_NAMED}::test_an_unfit_base_is_named_in_one_line_when_it_is_pinned"
_ORACLE = f"{_CLASS}::test_rows_and_sums_are_those_of_plain_autograd"
_KEEPS = f"{_CLASS}::test_rows_keep_to_what_every_method_does"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    (
        "names and rows of classes not compared",
        _FITNESS,
        "if not is_size(rows) or rows != len(names) + 1:",
        "if not is_size(rows):",
        _UNFIT,
    ),
    ("an unknown part beside classes.json", _KINDS, "if path.name not in known and path.is_dir()", "if False", _UNFIT),
    ("two kinds in one folder", _KINDS, "    if classes.exists():\n", "    if False:\n", _UNFIT),
    ("latents that a scheduler cuts", _FITNESS, 'scheduler.get("clip_sample", True) is not False', "False", _UNFIT),
    (
        "classes.json that no pin names",
        _KINDS,
        'FoundBase("class", (CLASSES, *_class_parts(folder, reference)))',
        'FoundBase("class", (*_class_parts(folder, reference),))',
        f"{_BARE}::test_a_base_says_what_it_is",
    ),
    (
        "a tensor without values",
        _BASE,
        'for part in ("unet", "vae"):',
        "for part in ():",
        f"{_NAMED}::test_a_tensor_that_is_not_expected_and_missing_is_found_when_it_is_loaded",
    ),
    (
        "nothing said by the first class in place of the last row",
        _BASE,
        "            return len(self.pinned.classes)\n",
        "            return 0\n",
        f"{_DRAWN}::test_what_is_predicted_is_the_stock_units_output",
    ),
    (
        "guidance towards the null label",
        f"{_MODELS}/drawing.py",
        "untold + guidance * (told - untold)",
        "told + guidance * (untold - told)",
        f"{_DRAWN}::test_a_class_is_drawn_with_guidance_away_from_the_null_label",
    ),
    (
        "labels in the order of a study",
        f"{_MODELS}/class_names.py",
        "zip(sorted(set(names) - found.keys()), left, strict=False)",
        "zip([name for name in names if name not in found], left, strict=False)",
        f"{_BARE}::test_labels_are_one_row_each_and_do_not_depend_on_the_order_of_a_study",
    ),
    (
        "a study's labels left on the base",
        _BLOCKS,
        "        self._base.name_classes(self._named)\n",
        "",
        _KEEPS,
    ),
    (
        "rows of the table in another order",
        _BLOCKS,
        "for row in rows]",
        "for row in sorted(rows, reverse=True)]",
        _ORACLE,
    ),
    (
        "the original tensors moved for good",
        _BLOCKS,
        "            parameter.data = parameter.data.clone()\n",
        "",
        _KEEPS,
    ),
    (
        "captions of public drawings tell no class",
        f"{_LDM}/method.py",
        "return told_classes(unit, self.classes) if self.per_class else unit",
        "return unit",
        f"{_CLASS}::test_public_rows_move_every_class",
    ),
    (
        "rows of an exported base under the names that it had",
        f"{_LDM}/release.py",
        "            names[row] = name\n",
        "            pass\n",
        f"{_CLASS}::test_exported_classes_stand_where_their_rows_are",
    ),
    (
        "a digit among the letters",
        "common/undertone/public_images/procedural.py",
        '    if kind == "letter":\n        return white_letter\n',
        '    if kind == "letter":\n        return soft_glyph\n',
        "pretraining/test_letters.py::test_a_series_of_letters_draws_no_digit",
    ),
]


def main() -> int:
    """Print a line for each mutant; 1 where one survived."""
    return run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS)


if __name__ == "__main__":
    sys.exit(main())
