"""Break one thing about dpdm: `python -m tests.methods.dpdm_mutants [WORD]`.

Each mutant names the test that guards it. Not collected by pytest: it takes minutes.
"""

import sys

from tests.support.mutants import run_mutants

_FOLDER = "common/undertone/methods/denoiser"
_TESTS = "methods/test_dpdm.py"
_ROW = f"{_TESTS}::test_a_row_is_the_mean_over_draws_of_the_weighted_losss_gradient"
_DENOISER = "training/test_parametrisations.py::test_the_papers_ideal_network_gives_the_ideal_denoiser"
_PARAMETRISATIONS, _SAMPLERS = "common/undertone/training/parametrisations.py", "common/undertone/models/samplers.py"
_MOMENTS = "models/test_samplers.py::test_a_samplers_images_have_the_datas_moments"

# (what is broken, file, text that must be there once, what takes its place, the test that turns red)
MUTANTS: list[tuple[str, str, str, str, str]] = [
    ("c_skip of EDM", _PARAMETRISATIONS, "self.sigma_data**2 / whole,", "self.sigma_data / whole,", _DENOISER),
    (
        "lambda of v",
        _PARAMETRISATIONS,
        "return (sigma.square() + 1) / sigma.square()",
        "return (sigma.square() + 1) / sigma",
        "training/test_parametrisations.py::test_the_loss_of_the_ideal_denoiser_is_weight_times_what_is_left",
    ),
    (
        "half the noise of the stochastic sampler",
        _SAMPLERS,
        "math.sqrt(-2 * down * sigma)",
        "math.sqrt(-down * sigma)",
        _MOMENTS,
    ),
    (
        "one generator for all images",
        _SAMPLERS,
        "torch.randn(self.shape, generator=one) for one in self.generators",
        "torch.randn(self.shape, generator=self.generators[0]) for one in self.generators",
        "models/test_samplers.py::test_an_image_follows_from_its_own_generator_alone",
    ),
    (
        "rows of classes in another order",
        f"{_FOLDER}/denoising.py",
        "for label in self._rows]",
        "for label in sorted(self._rows)]",
        _ROW,
    ),
    (
        "a release that may draw in another way",
        f"{_FOLDER}/whole_denoiser.py",
        "        if name != FIGURES:\n            return None\n",
        "        return None\n",
        "e2e/test_dpdm.py::test_other_weights_are_refused",
    ),
    (
        "a base that stays moved",
        f"{_FOLDER}/denoising.py",
        "            named[name].data = original\n",
        "            pass\n",
        f"{_TESTS}::test_a_warm_start_lowers_the_loss_is_the_seeds_and_leaves_the_base",
    ),
    (
        "figures that no study has",
        f"{_FOLDER}/release.py",
        "    figures = Figures.from_tensor(held[FIGURES])\n",
        '    figures = Figures("base", 0.0, -1.2, 1.2, "heun", 0.002, 80.0, 7.0, 0.0, 0.05, 50.0, 1.0)\n',
        f"{_TESTS}::test_figures_that_no_study_has_are_refused",
    ),
]


if __name__ == "__main__":
    sys.exit(run_mutants([(check, file, old, new, [test]) for check, file, old, new, test in MUTANTS]))
