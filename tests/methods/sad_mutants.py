"""Break one thing about dp-sad: `python -m tests.methods.sad_mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_SAD = "common/undertone/methods/sad"
_METHOD, _STUDENT, _TEACHERS = f"{_SAD}/method.py", f"{_SAD}/student.py", f"{_SAD}/teachers.py"
_QUERY = f"{_SAD}/query.py"
_DISCRIMINATOR, _PERCEPTRON = f"{_SAD}/discriminator.py", f"{_SAD}/perceptron.py"
_TESTS = "methods/test_sad.py"
_MINIMISER = f"{_TESTS}::test_the_exact_teacher_is_the_numeric_minimiser_of_the_denoising_loss"
_NEAREST = f"{_TESTS}::test_without_noise_it_is_the_nearest_record_of_the_class_and_with_much_their_mean"
_LACKING = f"{_TESTS}::test_of_a_class_that_a_shard_lacks_its_part_of_the_row_is_zero"
_OWN = f"{_TESTS}::test_rows_and_memories_are_a_shards_own_to_the_bit"
_STATE = f"{_TESTS}::test_a_query_follows_from_the_state_alone"
_WHOLE = f"{_TESTS}::test_a_step_is_the_gradient_of_the_whole_by_autograd"
_LOSES = f"{_TESTS}::test_a_row_is_the_gradient_of_what_its_shard_loses"
_BY_TORCH = f"{_TESTS}::test_a_perceptrons_gradients_and_steps_are_those_of_torch"
_FIXED = f"{_TESTS}::test_a_trained_teacher_takes_as_many_steps_whatever_its_shard_holds"
_PLACES = "        places = self._places(shard)\n"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    ("sigma in place of its square", _TEACHERS, "(2 * query.sigma**2)", "(2 * query.sigma)", _MINIMISER),
    ("exponents as they come", _TEACHERS, "np.exp((squares.min() - squares)", "np.exp((0 - squares)", _NEAREST),
    (
        "a teacher of all classes",
        _TEACHERS,
        "latents if label == NONE else latents[self._places == label]",
        "latents",
        _NEAREST,
    ),
    (
        "a trained teacher of classes that it never saw",
        _TEACHERS,
        "found, self._has[query.labels]  #",
        "found, np.ones(len(query.labels), dtype=np.bool_)  #",
        _LACKING,
    ),
    (
        "rows where there is no teacher",
        _METHOD,
        "row = np.where(has[:, None], 2 * (asked.outputs - answers), 0.0)",
        "row = 2 * (asked.outputs - answers).astype(np.float64)",
        _LACKING,
    ),
    (
        "as many steps as a shard has records",
        _TEACHERS,
        "for _ in range(options.teacher_steps):",
        "for _ in range(min(options.teacher_steps, len(latents))):",
        _FIXED,
    ),
    (
        "batches as large as the shard",
        _TEACHERS,
        "        size = options.teacher_batch\n",
        "        size = min(options.teacher_batch, len(latents))\n",
        _FIXED,
    ),
    # Privacy
    (
        "a discriminator for all shards",
        _DISCRIMINATOR,
        "        self._kept = fresh(self._network.start(generator)) if memory is None else memory.copy()\n",
        "        if not hasattr(Discriminator, 'all_of_them'):\n"
        "            Discriminator.all_of_them = fresh(self._network.start(generator))\n"
        "        self._kept = Discriminator.all_of_them\n",
        _OWN,
    ),
    (
        "student inputs from private images",
        _METHOD,
        _PLACES,
        f"{_PLACES}        self.options.__dict__['query_seed'] = int(np.abs(latents).sum())\n",
        _STATE,
    ),
    (
        "queries by torch's own generator",
        _STUDENT,
        "torch.Generator().manual_seed(int(seed)) for seed in of.seeds",
        "torch.default_generator for seed in of.seeds",
        _STATE,
    ),
    (
        "one query for all rounds",
        _QUERY,
        "key=np.array([options.query_seed, round_], dtype=np.uint64)",
        "key=np.array([options.query_seed, 0], dtype=np.uint64)",
        f"{_TESTS}::test_rounds_have_other_queries_and_labels_go_round",
    ),
    (
        "a memory of rows that are none",
        _METHOD,
        "judge.memory if finite else before",
        "judge.memory",
        f"{_TESTS}::test_a_record_that_is_no_number_gives_a_row_that_is_none_and_a_memory_of_before",
    ),
    (
        "labels of the coordinator's choice",
        _QUERY,
        " and np.array_equal(self.labels, of.labels)",
        "",
        f"{_TESTS}::test_what_is_no_query_is_refused",
    ),
    (
        "a round of the coordinator's choice",
        _QUERY,
        "self.round == of.round and ",
        "",
        f"{_TESTS}::test_what_is_no_query_is_refused",
    ),
    (
        "noise levels of the coordinator's choice",
        _QUERY,
        " and abs(self.sigma - of.sigma) <= _SAME * of.sigma",
        "",
        f"{_TESTS}::test_what_is_no_query_is_refused",
    ),
    # The chain rule
    (
        "levels with much noise count more",
        _STUDENT,
        "(outputs * upstream).sum() / scale",
        "(outputs * upstream).sum()",
        _WHOLE,
    ),
    (
        "a student that is asked elsewhere than it is moved",
        _STUDENT,
        "inputs = torch.from_numpy(query.inputs.copy())",
        "inputs = torch.from_numpy(query.outputs.copy())",
        _WHOLE,
    ),
    # Discriminators
    (
        "the student pushed away from the teacher",
        _DISCRIMINATOR,
        "np.concatenate([-first, first], axis=1)",
        "np.concatenate([first, -first], axis=1)",
        _LOSES,
    ),
    (
        "teachers called students",
        _DISCRIMINATOR,
        "truth = np.repeat(np.eye(2, dtype=np.float32)",
        "truth = np.repeat(np.eye(2, dtype=np.float32)[::-1]",
        f"{_TESTS}::test_a_discriminator_learns_to_tell_its_teacher_from_the_student_and_begins_with_nothing",
    ),
    (
        "pairs without a teacher",
        _DISCRIMINATOR,
        "weight = np.tile(has, 2)",
        "weight = np.ones(2 * len(has))",
        f"{_TESTS}::test_pairs_without_a_teacher_teach_a_discriminator_nothing",
    ),
    ("a ReLU without its slope", _PERCEPTRON, "np.float32(1), _SLOPE)", "np.float32(1), np.float32(0))", _BY_TORCH),
    ("Adam without its correction", _PERCEPTRON, "np.float32(rate / (1 - one**t))", "np.float32(rate)", _BY_TORCH),
]


if __name__ == "__main__":
    sys.exit(run_mutants([(check, file, old, new, [test]) for check, file, old, new, test in MUTANTS]))
