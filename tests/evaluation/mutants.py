"""Break one thing about evaluations, see its test turn red: `python -m tests.evaluation.mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_ROOM, _CLI = "common/undertone/evaluation", "deployments/undertone_cli"
_RESAMPLING, _NEIGHBOURS = f"{_ROOM}/resampling.py", f"{_ROOM}/neighbourhoods.py"
_CLASSIFIER, _COMMAND = f"{_ROOM}/classifier.py", f"{_CLI}/commands/evaluate.py"
_OUTPUT = "cli/test_evaluate.py::test_nothing_is_written_into_a_release_or_among_real_images"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    # Intervals
    (
        "a bootstrap by image",
        _RESAMPLING,
        "[None] * len(units), units, strict=True)",
        "[None] * len(units), map(str, range(len(units))), strict=True)",
        "evaluation/test_scores.py::test_intervals_by_patient_hold_the_true_auc_as_often_as_they_say_and_those_by_image_do_not",
    ),
    (
        "members and others drawn together",
        _RESAMPLING,
        "zip(strata or [None] * len(units), units",
        "zip([None] * len(units), units",
        "evaluation/test_scores.py::test_a_resample_draws_units_whole_and_as_many_as_there_are_in_each_stratum",
    ),
    (
        "an interval that is too short",
        _RESAMPLING,
        "[(1 - SHARE) / 2, (1 + SHARE) / 2]",
        "[1 - SHARE * 0.8, SHARE * 0.8]",
        "evaluation/test_scores.py::test_intervals_by_patient_hold_the_true_auc_as_often_as_they_say_and_those_by_image_do_not",
    ),
    (
        "ties count as wins",
        _RESAMPLING,
        "np.cumsum(against, axis=1) - against / 2",
        "np.cumsum(against, axis=1)",
        "evaluation/test_scores.py::test_auc_is_that_of_scikit_learn_with_weights_and_ties",
    ),
    # Neighbours
    (
        "an empty ball holds its centre",
        _NEIGHBOURS,
        "(distances < reach_generated[None])",
        "(distances <= reach_generated[None])",
        "evaluation/test_distances.py::test_one_image_repeated_has_no_recall",
    ),
    (
        "an image is its own neighbour",
        _NEIGHBOURS,
        ".fit(x).kneighbors()",
        ".fit(x).kneighbors(x)",
        "evaluation/test_distances.py::test_the_four_figures_are_those_of_the_definitions",
    ),
    # Classifiers
    (
        "folds that split a patient",
        _CLASSIFIER,
        "groups = np.arange(len(truth)) if units is None else",
        "groups = np.arange(len(truth)) if truth is not None else",
        "evaluation/test_classifier.py::test_images_of_one_unit_stand_in_one_fold",
    ),
    (
        "scales from the images that are tested on",
        _CLASSIFIER,
        "self._search.predict_proba(features)",
        "self._search.predict_proba(features - features.mean(axis=0))",
        "evaluation/test_classifier.py::test_everything_is_chosen_on_the_training_set",
    ),
    (
        "tested on what it was trained on",
        _CLASSIFIER,
        "there = ~tested",
        "there = tested",
        "evaluation/test_classifier.py::test_cross_fitting_tests_no_unit_on_a_model_that_saw_it",
    ),
    # Membership inference
    (
        "more than one in a hundred others above the threshold",
        f"{_ROOM}/membership.py",
        "np.sort(others)[-most - 1]",
        "np.sort(others)[-most - 2]",
        "evaluation/test_membership.py::test_one_in_a_hundred_others_at_most_lies_above_the_threshold",
    ),
    (
        "noise of its own for every call",
        f"{_CLI}/evaluating/losses.py",
        "np.random.Philox(key=_SEED)",
        "np.random.Philox(key=id(prompts))",
        "cli/test_evaluating.py::test_losses_are_those_of_one_image_after_the_other",
    ),
    (
        "members among the others",
        _COMMAND,
        "    refuse_shared(members, images)\n",
        "",
        "cli/test_evaluate.py::test_people_who_were_trained_on_are_no_others",
    ),
    (
        "the same image under two names",
        f"{_CLI}/evaluating/folders.py",
        "    if same:\n",
        "    if not others.files:\n",
        "cli/test_evaluating.py::test_members_are_other_people_and_other_images",
    ),
    # Controls
    (
        "random directions of another length",
        f"{_CLI}/evaluating/variants.py",
        "_between(weights, at_start, method) / _between(moved(1.0), at_start, method)",
        "_between(weights, at_start, method)",
        "cli/test_evaluating.py::test_a_random_direction_is_as_far_from_the_base_as_the_release_and_loads",
    ),
    (
        "sets of other sizes compared",
        f"{_CLI}/evaluating/comparison.py",
        "one.features[encoder][chosen(one, among, numbers)]",
        "one.features[encoder][among]",
        "cli/test_evaluating.py::test_sets_are_compared_in_the_shares_of_the_reference_and_as_many_of_each",
    ),
    # What stays at the site
    ("an output within a release", _COMMAND, "for name in (MANIFEST, STATEMENT)", "for name in (STATEMENT,)", _OUTPUT),
    ("an output within an export", _COMMAND, "for name in (MANIFEST, STATEMENT)", "for name in (MANIFEST,)", _OUTPUT),
    ("an output among real images", _COMMAND, "folders = [real, *([", "folders = [*([", _OUTPUT),
    (
        "an output among members",
        _COMMAND,
        "*([wanted.members] if wanted.members else [])]",
        "]",
        _OUTPUT,
    ),
    ("a folder known by its name alone", _COMMAND, "above.samefile(folder)", "above == folder", _OUTPUT),
    ("an output through a link", _COMMAND, "path.resolve().parents", "path.absolute().parents", _OUTPUT),
    ("an output that is there", _COMMAND, "if path.is_symlink() or path.exists():", "if path.is_dir():", _OUTPUT),
    (
        "the manifest not checked",
        f"{_CLI}/released.py",
        "    plan, _ = checked_plan(release, coordinator)\n",
        '    plan = Plan.from_bytes((release / "plan.json").read_bytes())\n',
        "cli/test_evaluate.py::test_the_manifest_is_checked_first",
    ),
    (
        "a pickle that runs",
        f"{_ROOM}/inception.py",
        "weights_only=True",
        "weights_only=False",
        "evaluation/test_inception.py::test_what_is_no_file_of_its_tensors_is_refused_and_never_run",
    ),
]

if __name__ == "__main__":
    sys.exit(run_mutants((check, file, old, new, [test]) for check, file, old, new, test in MUTANTS))
