"""dp-sad: teachers and discriminators against slow oracles, rows of shards, queries, and the chain rule."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from numpy.typing import NDArray
from PIL.Image import Image

from tests.support.bases import tiny_class_base, tiny_none_base
from tests.support.sad import CLASSES, D, made, query_of, shard
from undertone.errors import MechanismViolation, ModelError, PlanChanged, StudyError
from undertone.methods.choosing import WarmStarted
from undertone.methods.denoiser.denoising import parametrisation_of
from undertone.methods.denoiser.options import Figures
from undertone.methods.protocol import ShardedMethod, sent_by, stages_of
from undertone.methods.sad import perceptron, teachers
from undertone.methods.sad.discriminator import Discriminator, network_of
from undertone.methods.sad.method import DPSAD
from undertone.methods.sad.options import SADOptions
from undertone.methods.sad.perceptron import Perceptron, adam, fresh, parameters_of
from undertone.methods.sad.query import Query
from undertone.methods.sad.teachers import ExactTeacher, TrainedTeacher
from undertone.methods.warm_start import RestartableMethod
from undertone.methods.weights import attach, released_layout
from undertone.models.base import LoadedBase, load_base
from undertone.models.pinned import PinnedBase, pin


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> PinnedBase:
    return pin(str(tiny_class_base(tmp_path_factory.mktemp("class"), ("a", "b", "c"))))


@pytest.fixture(scope="module")
def base(pinned: PinnedBase) -> LoadedBase:
    return load_base(pinned)


def row_of(method: DPSAD, base: LoadedBase, query: NDArray[np.float32], number: int, **of: Any) -> NDArray[np.float32]:
    one = shard(number, **of)
    return method.shard_row(base, query, method.prepared(base, one), None, one.generator)[0]


# --- the exact teacher ----------------------------------------------------------------------------


def teacher_of(points: NDArray[np.float64], places: list[int] | None = None) -> ExactTeacher:
    return ExactTeacher(points.astype(np.float32), np.array(places or [0] * len(points)))


def at_points(x: NDArray[np.float64], sigma: float, labels: list[int] | None = None) -> Query:
    inputs = x.astype(np.float32)
    return Query(inputs, inputs, np.array(labels or [0] * len(inputs)), sigma)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0])
def test_the_exact_teacher_is_the_numeric_minimiser_of_the_denoising_loss(sigma: float) -> None:
    """Five points on a line, D a table over a fine grid; the loss is integrated over noise, and L-BFGS goes down it."""
    points = np.array([-2.0, -0.5, 0.1, 1.3, 2.2])
    grid = np.linspace(-6 * sigma - 3, 6 * sigma + 3, 301)
    x, x_0 = torch.from_numpy(grid), torch.from_numpy(points)
    mass = torch.distributions.Normal(x_0[:, None], sigma).log_prob(x[None]).exp() * (grid[1] - grid[0])
    table = torch.zeros(301, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-14, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        # By mass, so that each place of the table is as easy to find; the minimum is where it was.
        value = ((mass / mass.sum(0)) * (table[None] - x_0[:, None]).square()).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)
    answers, has = teacher_of(points[:, None]).answers(at_points(grid[:, None], sigma))
    assert has.all()
    np.testing.assert_allclose(answers[:, 0], table.detach().numpy(), atol=1e-4)


def test_without_noise_it_is_the_nearest_record_of_the_class_and_with_much_their_mean() -> None:
    drawn = np.random.Generator(np.random.Philox(key=1))
    points, places = drawn.standard_normal((9, 4)).astype(np.float32).astype(np.float64), [0, 1, 0] * 3
    teacher, x = teacher_of(points, places), drawn.standard_normal((3, 4))
    for label in (0, 1, -1):
        own = points if label < 0 else points[np.array(places) == label]
        nearest = own[np.square(x[:, None] - own[None]).sum(2).argmin(1)]
        for sigma, expected in ((1e-6, nearest), (1e6, np.tile(own.mean(0), (3, 1)))):
            answers, has = teacher.answers(at_points(x, sigma, [label] * 3))
            assert has.all()
            np.testing.assert_allclose(answers, expected, atol=1e-5)


@pytest.mark.parametrize("teacher", ["exact", "trained"])
@pytest.mark.parametrize("adversarial", [0.0, 1.0])
def test_of_a_class_that_a_shard_lacks_its_part_of_the_row_is_zero(
    base: LoadedBase, teacher: str, adversarial: float
) -> None:
    method = made(teacher=teacher, adversarial=adversarial, teacher_steps=2)
    query = query_of(labels=[0, 1, -1, 1])
    row = row_of(method, base, query, 0, places=[0, 0, 0]).reshape(4, D)
    assert not row[[1, 3]].any()
    assert (np.abs(row[[0, 2]]).max(axis=1) > 1e-4).all()


# --- rows of shards -------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", ["exact", "trained"])
def test_rows_and_memories_are_a_shards_own_to_the_bit(base: LoadedBase, teacher: str) -> None:
    """Over three rounds, whatever other shards hold, however many there are and whose turn it is first."""
    method = made(teacher=teacher, teacher_steps=5)
    queries = [query_of(seed) for seed in range(3)]

    def played(order: list[int], asked: DPSAD, records: int) -> dict[int, list[bytes]]:
        kept, found = dict[int, Any](), dict[int, list[bytes]]()
        prepared = {number: asked.prepared(base, shard(number, 4 if number == 2 else records)) for number in order}
        for query in queries:
            for number in order:
                row, kept[number] = asked.shard_row(
                    base, query, prepared[number], kept.get(number), shard(number).generator
                )
                found.setdefault(number, []).append(row.tobytes() + kept[number].tobytes())
        return found

    alone = played([2], made(teacher=teacher, teacher_steps=5), 1)[2]
    assert len(set(alone)) == 3
    for order, records in (([2, 0, 1, 3], 3), ([5, 4, 2], 9)):
        assert played(order, method, records)[2] == alone


def test_a_record_that_is_no_number_gives_a_row_that_is_none_and_a_memory_of_before(base: LoadedBase) -> None:
    method, one = made(), shard(0, 6)
    one.inputs[2] = np.nan
    prepared = method.prepared(base, one)
    _, before = method.shard_row(base, query_of(), method.prepared(base, shard(1)), None, one.generator)
    row, after = method.shard_row(base, query_of(), prepared, before, one.generator)
    assert not np.isfinite(row).all()
    np.testing.assert_array_equal(after, before)
    trained = made(teacher="trained", teacher_steps=3)
    broken = trained.prepared(base, one)
    assert not np.isfinite(trained.shard_row(base, query_of(), broken, None, one.generator)[0]).all()


def test_a_row_is_the_gradient_of_what_its_shard_loses(base: LoadedBase) -> None:
    """By torch, with the discriminator as it stands after the row was made."""
    method = made(adversarial=0.7, discriminator_steps=3)
    one, sent = shard(0), query_of()
    query = Query.of(sent, 4, D)
    prepared = method.prepared(base, one)
    row, memory = method.shard_row(base, sent, prepared, None, one.generator)
    x = torch.from_numpy(query.outputs.copy()).double().requires_grad_(True)
    answers, _ = ExactTeacher.of(prepared, D).answers(query)
    told = teachers.inputs_of(np.zeros_like(query.outputs), np.full(4, query.sigma, np.float32), query.labels, 2)
    logits = in_torch(network_of(method.options, D, 2), parameters_of(memory))(
        torch.cat([x, torch.from_numpy(told[:, D:]).double()], 1)
    )
    adversarial = torch.log(1 - logits.softmax(1)[:, 0]).sum()
    distance = (torch.from_numpy(answers) - x).square().sum()
    (expected,) = torch.autograd.grad(distance + 0.7 * adversarial, x)
    np.testing.assert_allclose(row.reshape(4, D), expected.numpy(), atol=1e-6)
    assert np.abs(torch.autograd.grad(in_torch_total(method, memory, x, told), x)[0].numpy()).max() > 1e-4


def in_torch_total(method: DPSAD, memory: NDArray[np.float32], x: torch.Tensor, told: NDArray[np.float32]) -> Any:
    beside = torch.from_numpy(told[:, D:]).double()
    found = in_torch(network_of(method.options, D, 2), parameters_of(memory))(torch.cat([x, beside], 1))
    return torch.log(1 - found.softmax(1)[:, 0]).sum()


# --- networks by hand -----------------------------------------------------------------------------


def in_torch(network: Perceptron, parameters: NDArray[np.float32]) -> torch.nn.Sequential:
    """The same layers as torch has them, in float64."""
    parts: list[torch.nn.Module] = []
    start = 0
    for first, second in zip(network.widths, network.widths[1:], strict=False):
        layer = torch.nn.Linear(first, second).double()
        held = torch.from_numpy(parameters.astype(np.float64))
        with torch.no_grad():
            layer.weight.copy_(held[start : start + first * second].reshape(first, second).T)
            layer.bias.copy_(held[start + first * second : start + (first + 1) * second])
        start += (first + 1) * second
        parts += [layer, torch.nn.LeakyReLU(0.2)]
    return torch.nn.Sequential(*parts[:-1])


def test_a_perceptrons_gradients_and_steps_are_those_of_torch() -> None:
    network, drawn = Perceptron((5, 7, 6, 3)), np.random.Generator(np.random.Philox(key=4))
    parameters = drawn.standard_normal(network.size, dtype=np.float32)
    x, upstream = (drawn.standard_normal((4, width), dtype=np.float32) for width in (5, 3))
    seen = network.forward(parameters, x)
    gradient, at_x = network.backward(parameters, seen, upstream)
    other = in_torch(network, parameters)
    leaf = torch.from_numpy(x).double().requires_grad_(True)
    answer = other(leaf)
    np.testing.assert_allclose(seen[-1], answer.detach().numpy(), atol=1e-5)
    (answer * torch.from_numpy(upstream)).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(at_x, leaf.grad.numpy(), atol=1e-5)
    flat = [part.grad.T.reshape(-1) if part.grad.ndim == 2 else part.grad for part in other.parameters()]  # type: ignore[union-attr]
    np.testing.assert_allclose(gradient, torch.cat(flat).numpy(), atol=1e-5)

    kept, values = fresh(parameters), torch.from_numpy(parameters.astype(np.float64)).requires_grad_(True)
    optimiser = torch.optim.Adam([values], lr=0.01)
    for step in range(5):
        values.grad = torch.from_numpy((1 + step) * gradient.astype(np.float64))
        optimiser.step()
        adam(kept, np.float32(1 + step) * gradient, 0.01)
    np.testing.assert_allclose(parameters_of(kept), values.detach().numpy(), atol=1e-6)


def test_a_discriminator_learns_to_tell_its_teacher_from_the_student_and_begins_with_nothing() -> None:
    options = SADOptions(discriminator_steps=60, discriminator_rate=0.02)
    query, drawn = Query.of(query_of(), 4, D), np.random.Generator(np.random.Philox(key=2))
    answers = (query.outputs + 0.5 + 0.1 * drawn.standard_normal(query.outputs.shape)).astype(np.float32)
    judge = Discriminator(options, D, 2, None)
    assert not judge.gradients(query).any()
    judge.learn(query, answers, np.ones(4, dtype=bool))
    other = in_torch(network_of(options, D, 2), parameters_of(judge.memory)).float()

    def of_teacher(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        told = teachers.inputs_of(np.zeros_like(outputs), np.full(4, query.sigma, np.float32), query.labels, 2)
        told[:, :D] = outputs
        found: NDArray[np.float32] = other(torch.from_numpy(told)).softmax(1)[:, 0].detach().numpy()
        return found

    assert (of_teacher(answers) > 0.9).all()
    assert (of_teacher(query.outputs) < 0.1).all()
    # Against its gradient the student looks more like the teacher.
    moved = query.outputs - 5 * judge.gradients(query) / np.linalg.norm(judge.gradients(query), axis=1, keepdims=True)
    assert (of_teacher(moved.astype(np.float32)) > of_teacher(query.outputs)).all()


def test_pairs_without_a_teacher_teach_a_discriminator_nothing() -> None:
    options, query = SADOptions(), Query.of(query_of(), 4, D)
    has = np.array([True, False, True, False])
    memories = []
    for filling in (0.0, 7.0):
        answers = np.full((4, D), filling, dtype=np.float32)
        answers[has] = 0.5
        judge = Discriminator(options, D, 2, None)
        asked = replace(query, outputs=np.where(has[:, None], query.outputs, filling).astype(np.float32))
        judge.learn(asked, answers, has)
        memories.append(judge.memory)
    np.testing.assert_allclose(memories[0], memories[1], atol=1e-7)


def test_a_trained_teacher_takes_as_many_steps_whatever_its_shard_holds(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    forward = Perceptron.forward

    def counted(self: Perceptron, parameters: NDArray[np.float32], x: NDArray[np.float32]) -> Any:
        seen.append(x.shape)
        return forward(self, parameters, x)

    monkeypatch.setattr(Perceptron, "forward", counted)
    method, sizes = made(teacher="trained", teacher_steps=7, teacher_batch=5), []
    for images in (1, 100):
        seen.clear()
        sizes.append(method.prepared(base, shard(3, images)).size)
        assert seen == [(5, D + 4)] * 7
    assert sizes[0] == sizes[1]


def test_a_trained_teacher_comes_near_the_exact_one(base: LoadedBase) -> None:
    """Two records for each class; both answer alike, and far from an untrained one."""
    options = {"query_log_sigma_mean": 0.0, "query_log_sigma_deviation": 0.5}
    trained = made(teacher="trained", teacher_steps=1000, teacher_rate=3e-3, teacher_width=64, **options)
    one = shard(1, 4)
    x = np.repeat(one.inputs.reshape(4, D), 4, axis=0)
    noise = np.random.Generator(np.random.Philox(key=9)).standard_normal(x.shape).astype(np.float32)
    assert one.classes is not None
    query = Query(x + noise, x, np.repeat(one.classes, 4), 1.0)
    exact, _ = ExactTeacher.of(made().prepared(base, one), D).answers(query)
    found, has = TrainedTeacher.of(trained.prepared(base, one), trained.options, D, 2).answers(query)
    assert has.all()
    none = trained.options.model_copy(update={"teacher_rate": 1e-30})
    untrained, _ = TrainedTeacher.trained(
        none, one.inputs.reshape(4, D), one.classes, 2, np.random.Generator(np.random.Philox(key=1))
    ).answers(query)
    assert np.linalg.norm(found - exact) < 0.5 * np.linalg.norm(untrained - exact)


# --- queries --------------------------------------------------------------------------------------


def test_a_query_follows_from_the_state_alone(base: LoadedBase, pinned: PinnedBase) -> None:
    """To the bit, in a new instance on a new base, and whatever records were prepared or rows made before."""
    method = made()
    state = method.initial_state(pinned)
    first = method.query(base, state)
    for number in (0, 1):
        row_of(method, base, first, number)
        made(teacher="trained", teacher_steps=2).prepared(base, shard(number))
    torch.manual_seed(3)
    np.random.seed(3)
    np.testing.assert_array_equal(method.query(base, state), first)
    np.testing.assert_array_equal(made().query(load_base(pinned), np.array(state)), first)
    assert first.shape == (method.sent(pinned),) == (2 * 4 * D + 4 + 2,)
    method.check_query(pinned, first, 1)
    other = made(query_log_sigma_mean=-10.0)  # the lowest level that the base's schedule has
    other.check_query(pinned, other.query(base, state), 1)


def test_rounds_have_other_queries_and_labels_go_round(base: LoadedBase, pinned: PinnedBase) -> None:
    method, state = made(caption_dropout=0.0), made().initial_state(pinned)
    found = []
    for number in range(6):
        state[-1] = number
        found.append(Query.of(method.query(base, state), 4, D))
    assert len({one.sigma for one in found}) == 6
    assert len({one.inputs.tobytes() for one in found}) == 6
    assert all(sorted(one.labels.tolist()) == [0, 0, 1, 1] for one in found)
    dropped = Query.of(made(caption_dropout=0.99).query(base, state), 4, D)
    assert (dropped.labels == -1).all()
    other = Query.of(made(query_seed=1, caption_dropout=0.0).query(base, state), 4, D)
    assert other.sigma != found[-1].sigma


def test_outputs_are_the_students_at_its_inputs_whose_noise_is_sigma(base: LoadedBase, pinned: PinnedBase) -> None:
    """And the inputs are what its sampler comes to from noise: of the base, since w is the base's own here."""
    for start in ({}, {"initial_weights": "scratch", "parametrisation": "edm", "sampler": "ddim"}):
        method = made(**start)
        state = method.initial_state(pinned)
        state[: method.dimension(pinned)] += np.float32(0.01)
        query = Query.of(method.query(base, state), 4, D)
        answer, _ = answered(method, pinned, state, query, torch.zeros(4, D))
        np.testing.assert_allclose(query.outputs, answer.reshape(4, D), atol=1e-4)
        assert np.sqrt(np.square(query.inputs - query.outputs).mean()) > 0.3 * min(query.sigma, 1)


def test_noise_levels_stay_within_what_the_sampler_has(base: LoadedBase, pinned: PinnedBase) -> None:
    for mean, expected in ((-10.0, 0.05), (10.0, 72.0)):
        method = made(query_log_sigma_mean=mean, sigma_min=0.05, sigma_max=80.0)
        query = Query.of(method.query(base, method.initial_state(pinned)), 4, D)
        assert query.sigma == pytest.approx(expected, rel=1e-5)


BAD: list[Callable[[NDArray[np.float32]], object]] = [
    lambda sent: sent.__setitem__(0, np.nan),
    lambda sent: sent.__setitem__(-1, -1.0),
    lambda sent: sent.__setitem__(-1, 0.5),
    lambda sent: sent.__setitem__(-1, 3e38),
    lambda sent: sent.__setitem__(-1, 1.0),  # another round's
    lambda sent: sent.__setitem__(-2, 0.0),
    lambda sent: sent.__setitem__(-2, -1.0),
    lambda sent: sent.__setitem__(-2, 1.01 * sent[-2]),
    lambda sent: sent.__setitem__(-2, 1e6),
    lambda sent: sent.__setitem__(-3, 2.0),
    lambda sent: sent.__setitem__(-3, -2.0),
    lambda sent: sent.__setitem__(-3, sent[-3] + 0.5),
    lambda sent: sent.__setitem__(-3, np.inf),
    lambda sent: sent.__setitem__(slice(-6, -2), np.roll(sent[-6:-2], 1)),
]


@pytest.mark.parametrize("start", [{}, {"initial_weights": "scratch", "parametrisation": "edm"}])
def test_what_is_no_query_is_refused(base: LoadedBase, pinned: PinnedBase, start: dict[str, Any]) -> None:
    """Labels and noise level are what the study's seed draws for the round that is asked for."""
    method = made(**start, caption_dropout=0.0)
    state = method.initial_state(pinned)
    for number in range(3):
        state[-1] = number
        method.check_query(pinned, method.query(base, state), number + 1)
    state[-1] = 0
    true = method.query(base, state)
    for spoil in BAD:
        sent = true.copy()
        spoil(sent)
        assert not np.array_equal(sent, true)
        with pytest.raises(PlanChanged):
            method.check_query(pinned, sent, 1)
    for sent, round_ in ((true[1:], 1), (true, 2)):
        with pytest.raises(PlanChanged):
            method.check_query(pinned, sent, round_)


# --- the chain rule -------------------------------------------------------------------------------


def answered(
    method: DPSAD, pinned: PinnedBase, state: NDArray[np.float32], query: Query, g: torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """D_w at the query's inputs in float64, by diffusers alone; and the gradient of <g, D_w> in w, by autograd."""
    named = method.layout(pinned).unflatten(state[: method.dimension(pinned)])
    unet = UNet2DModel.from_pretrained(pinned.folder / "unet").double()
    parameters = dict(unet.named_parameters())
    labels = {"class.one": 0, "class.b": 1, "null": 3}
    with torch.no_grad():
        for name, values in named.items():
            if name in labels:
                parameters["class_embedding.weight"][labels[name]] = torch.from_numpy(values.copy()).double()
            else:
                parameters[name.removeprefix("unet.")].copy_(torch.from_numpy(values.copy()))
    sigma = torch.full((4,), query.sigma, dtype=torch.float64)
    c = parametrisation_of(load_base(pinned), Figures.of(method.options)).coefficients(sigma)
    skip, out, into = (one.reshape(-1, 1, 1, 1) for one in (c.skip, c.out, c.into))
    x = torch.from_numpy(query.inputs.copy()).double().reshape(4, 4, 4, 4)
    told = torch.tensor([[0, 1, 3][label] for label in query.labels])
    answer = skip * x + out * unet(into * x, c.noise, told).sample
    found = torch.autograd.grad((answer.reshape(4, -1) * g).sum() / c.out[0].abs(), list(parameters.values()))
    whole = dict(zip(parameters, found, strict=True))
    flat = [
        whole["class_embedding.weight"][labels[name]] if name in labels else whole[name.removeprefix("unet.")]
        for name in named
    ]
    return answer.detach().numpy(), torch.cat([one.flatten() for one in flat]).numpy()


@pytest.mark.parametrize(
    "start", [{}, {"initial_weights": "scratch", "parametrisation": "edm", "sampler": "stochastic"}]
)
def test_a_step_is_the_gradient_of_the_whole_by_autograd(
    base: LoadedBase, pinned: PinnedBase, start: dict[str, Any]
) -> None:
    """The mean of shards' rows through the student is the gradient in w of the mean of what shards lose."""
    method = made(**start, adversarial=0.0, optimiser="sgd", momentum=0.0, learning_rate=1.0, ema=0.0)
    state = method.initial_state(pinned)
    sent = method.query(base, state)
    query = Query.of(sent, 4, D)
    rows = np.stack([row_of(method, base, sent, number) for number in range(3)]).astype(np.float64)
    moved = method.step_on(base, state, sent, rows.mean(axis=0))
    g = torch.zeros(4, D, dtype=torch.float64)
    for number in range(3):
        target, has = ExactTeacher.of(method.prepared(base, shard(number)), D).answers(query)
        g += torch.from_numpy(2 * has[:, None] * (query.outputs - target)) / 3
    _, expected = answered(method, pinned, state, query, g)
    d = method.dimension(pinned)
    found = state[:d].astype(np.float64) - moved[:d]
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    assert np.linalg.norm(expected) > 1e-3
    assert moved[-1] == state[-1] + 1


def test_steps_follow_from_the_kept_array_alone_and_leave_the_base(base: LoadedBase, pinned: PinnedBase) -> None:
    method = made(ema=0.5)
    before = [one.clone() for one in base.pipeline.unet.parameters()]
    drawn = np.random.Generator(np.random.Philox(key=7)).standard_normal((3, method.row(pinned)))
    state = again = method.initial_state(pinned)
    for mean in drawn:
        query = method.query(base, state)
        state = method.step_on(base, state, query, mean)
        same = np.frombuffer(again.tobytes(), dtype=np.float32)
        again = made(ema=0.5).step_on(load_base(pinned), same, query, mean)
    np.testing.assert_array_equal(state, again)
    assert not np.array_equal(method.released(state), method.released(method.initial_state(pinned)))
    after = list(base.pipeline.unet.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any(one.requires_grad or one.grad is not None for one in after)


# --- what a study may say, what is released -------------------------------------------------------


def test_sizes_follow_from_options_and_base(pinned: PinnedBase) -> None:
    method = made(outputs=0)
    assert isinstance(method, ShardedMethod)
    assert isinstance(method, WarmStarted)
    assert isinstance(method, RestartableMethod)
    assert (method.row(pinned), method.sent(pinned)) == (1024, 2 * 1024 + 16 + 2)
    assert (sent_by(method, pinned), stages_of(method, pinned)[0].row) == (method.sent(pinned), 1024)
    assert made(adversarial=0.0).memory(pinned) == 0
    assert made(discriminator_width=5).memory(pinned) == 3 * ((D + 4 + 1) * 5 + (5 + 1) * 2) + 1
    with pytest.raises(MechanismViolation):
        method.rows(load_base(pinned), method.initial_state(pinned), [], lambda _steps: None)
    with pytest.raises(MechanismViolation):
        method.step(method.initial_state(pinned), np.zeros(1024))


def test_queries_that_are_too_long_are_refused_and_words_too(pinned: PinnedBase, tmp_path: Path) -> None:
    made(outputs=16).check(pinned, "{finding}")
    with pytest.raises(StudyError, match="say 16"):
        made(outputs=17).check(pinned, "{finding}")
    with pytest.raises(StudyError, match="token"):
        made().check(pinned, "a {token}")
    large = pin(str(tiny_none_base(tmp_path, pixels=True, channels=3, side=32)))
    with pytest.raises(StudyError, match="3072 values"):
        made(per_class=False).check(large, "a picture")
    with pytest.raises(ModelError, match="told text"):
        made(per_class=False).check(pin("embedded:tiny"), "a picture")


@pytest.mark.parametrize("teacher", ["exact", "trained"])
def test_a_base_that_is_told_nothing_has_a_student_too(tmp_path: Path, teacher: str) -> None:
    untold = pin(str(tiny_none_base(tmp_path, pixels=True, channels=1, side=16)))
    method, loaded = made(per_class=False, outputs=2, caption_dropout=0.0, teacher=teacher), load_base(untold)
    method.check(untold, "a picture")
    state = method.initial_state(untold)
    sent = method.query(loaded, state)
    one = shard(0, shape=(1, 16, 16))
    row, _ = method.shard_row(loaded, sent, method.prepared(loaded, replace(one, classes=None)), None, one.generator)
    assert np.abs(row).max() > 1e-4
    moved = method.step_on(loaded, state, sent, row.astype(np.float64))
    assert not np.array_equal(moved[: method.dimension(untold)], state[: method.dimension(untold)])


def test_a_release_is_a_denoiser_that_draws_its_classes(base: LoadedBase, pinned: PinnedBase) -> None:
    method = made(ema=0.5, learning_rate=0.05)
    state = method.initial_state(pinned)
    for number in range(3):
        mean = np.full(method.row(pinned), 0.1 * number)
        state = method.step_on(base, state, method.query(base, state), mean)
    weights = method.weights(pinned, method.released(state))
    assert set(weights) == {"denoiser.safetensors"}
    shapes = {file: {name: one.shape for name, one in held.items()} for file, held in weights.items()}
    assert released_layout(method, shapes) == method.layout(pinned)
    fresh_base = load_base(pinned)
    attach(fresh_base, weights)
    held = dict(fresh_base.pipeline.unet.named_parameters())
    found = method.layout(pinned).unflatten(method.released(state))
    np.testing.assert_array_equal(held["conv_in.weight"].detach().numpy(), found["unet.conv_in.weight"])
    image: Image = fresh_base.drawer(["one"], [torch.Generator().manual_seed(1)], steps=2, guidance=1.0)[0]
    assert image.size == (16, 16)


def test_public_shards_give_lengths_and_are_the_same_every_time(base: LoadedBase, pinned: PinnedBase) -> None:
    method = made()
    first = method.public_lengths(base, "", 3)
    np.testing.assert_array_equal(method.public_lengths(load_base(pinned), "", 3), first)
    assert (first > 0).all()
    assert len(set(first)) == 3


def test_a_start_from_a_release_begins_the_average_there(pinned: PinnedBase, base: LoadedBase) -> None:
    method = made(ema=0.5)
    w = method.warm_start(base, np.ones((3, 4, 4, 4), np.float32), np.array([0, 1, 1]), 2, 5)
    state = method.state_at(pinned, w)
    np.testing.assert_array_equal(method.released(state), w)
    assert not np.array_equal(method.query(base, state), method.query(base, method.initial_state(pinned)))


def test_all_classes_are_those_of_the_plan(base: LoadedBase) -> None:
    assert tuple(made().classes) == CLASSES
    with pytest.raises(MechanismViolation):
        made().prepared(base, replace(shard(0), classes=None))
    with pytest.raises(MechanismViolation):
        made().prepared(base, shard(0, shape=(4, 8, 8)))
    assert perceptron.kept_size(network_of(made().options, D, 2)) == made().memory(base.pinned)
