import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mixkd.losses import cross_entropy, distillation_loss, label_loss, pkd_loss

SHAPES = [(1, 2), (5, 2), (7, 3)]


def naive_softmax(row):
    """Python floats and loops only."""
    largest = max(row)
    powers = [math.exp(value - largest) for value in row]
    return [power / math.fsum(powers) for power in powers]


def naive_cross_entropy(logits, distribution):
    return -math.fsum(p * math.log(q) for p, q in zip(distribution, naive_softmax(logits), strict=True) if p)


def naive_kl(student, teacher, temperature):
    """T^2 sum_c p_c log(p_c / q_c)."""
    p, q = (naive_softmax([value / temperature for value in row]) for row in (teacher, student))
    return temperature**2 * math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive_mse(student, teacher):
    return math.fsum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)


def logits_of(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator) * 3


rows = st.integers(2, 4).flatmap(
    lambda num_classes: st.lists(
        st.tuples(*[st.lists(st.floats(-20, 20, width=32), min_size=num_classes, max_size=num_classes)] * 2),
        min_size=1,
        max_size=5,
    )
)


@given(rows, st.data())
def test_cross_entropy(examples, data):
    logits = [first for first, _ in examples]
    classes = [data.draw(st.integers(0, len(row) - 1)) for row in logits]
    loss = cross_entropy(torch.tensor(logits), torch.tensor(classes))
    one_hot = np.eye(len(logits[0]))[classes]
    expected = [naive_cross_entropy(row, p) for row, p in zip(logits, one_hot, strict=True)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    distributions = [naive_softmax(second) for _, second in examples]
    loss = cross_entropy(torch.tensor(logits), torch.tensor(distributions))
    expected = [naive_cross_entropy(row, p) for row, p in zip(logits, distributions, strict=True)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)


@given(rows, st.sampled_from([0.5, 1.0, 2.0, 10.0]))
def test_distances(examples, temperature):
    student, teacher = (list(column) for column in zip(*examples, strict=True))
    kl = distillation_loss(torch.tensor(student), torch.tensor(teacher), "kl", temperature)
    expected = [naive_kl(s, t, temperature) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(kl, expected, rtol=1e-4, atol=2e-5 * temperature**2)
    mse = distillation_loss(torch.tensor(student), torch.tensor(teacher))
    expected = [naive_mse(s, t) for s, t in zip(student, teacher, strict=True)]
    np.testing.assert_allclose(mse, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_batchmean_times_t_squared(shape, temperature):
    student, teacher = logits_of(shape)
    inputs = F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    expected = F.kl_div(*inputs, reduction="batchmean") * temperature**2
    loss = distillation_loss(student, teacher, "kl", temperature)
    assert loss.shape == shape[:1]
    torch.testing.assert_close(loss.mean(), expected)
    assert abs(loss.mean() - expected / shape[1]) > 0.1 * expected  # reduction="mean" divides by the classes, too


def test_gradient_of_kl_keeps_its_size_as_the_temperature_grows():
    student, teacher = logits_of((6, 3)).double()
    difference = student - teacher
    centred = difference - difference.mean(-1, keepdim=True)
    student.requires_grad_()
    loss = distillation_loss(student, teacher, "kl", 100.0)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    torch.testing.assert_close(gradient, centred / 3, rtol=0.1, atol=0.02)  # d/dz of sum(centred^2) / (2 * 3)
    torch.testing.assert_close(loss.double(), centred.square().sum(-1) / 6, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_in_closed_form_and_none_for_the_teacher(shape):
    student, teacher = logits_of(shape)
    teacher.requires_grad_()
    temperature, num_classes = 3.0, shape[1]
    targets = F.softmax(logits_of(shape, seed=1)[0], -1)

    def gradient(loss_of):
        leaf = student.clone().requires_grad_()
        loss_of(leaf).sum().backward()
        return leaf.grad

    expected = F.softmax(student, -1) - targets
    torch.testing.assert_close(gradient(lambda z: cross_entropy(z, targets)), expected)
    expected = 2 * (student - teacher.detach()) / num_classes
    torch.testing.assert_close(gradient(lambda z: distillation_loss(z, teacher)), expected)
    p, q = (F.softmax(z / temperature, -1) for z in (teacher.detach(), student))
    expected = temperature * (q - p)
    torch.testing.assert_close(
        gradient(lambda z: distillation_loss(z, teacher, "kl", temperature)), expected, rtol=1e-4, atol=1e-5
    )
    assert teacher.grad is None


def test_equal_logits_and_shifted_logits():
    student, _ = logits_of((4, 3))
    for distance in ("mse", "kl"):
        np.testing.assert_allclose(distillation_loss(student, student, distance, 2.0), 0, atol=1e-6)
    np.testing.assert_allclose(distillation_loss(student + 1, student, "kl"), 0, atol=1e-6)
    np.testing.assert_allclose(distillation_loss(student + 1, student), 1, rtol=1e-5)


@pytest.mark.parametrize("distance", ["mse", "kl"])
def test_half_precision_and_large_logits(distance):
    student, teacher = logits_of((5, 3))
    half = distillation_loss(student.bfloat16(), teacher.bfloat16(), distance)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half, distillation_loss(student.bfloat16().float(), teacher.bfloat16().float(), distance)
    )
    large = torch.tensor([[1e4, -1e4]])
    assert distillation_loss(large, -large, distance).isfinite().all()
    assert cross_entropy(large, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(1e4)
    assert cross_entropy(large.bfloat16(), torch.tensor([0])).dtype == torch.float32


# ---- labels that may be numbers ----


@given(st.lists(st.tuples(st.floats(-9, 9, width=32), st.floats(0, 5, width=32)), min_size=1, max_size=5))
def test_label_loss_of_a_regression_is_the_squared_error(examples):
    predictions, labels = (list(column) for column in zip(*examples, strict=True))
    loss = label_loss(torch.tensor(predictions)[:, None], torch.tensor(labels))
    expected = [(prediction - label) ** 2 for prediction, label in examples]
    assert loss.shape == (len(examples),) and loss.dtype == torch.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


def test_label_loss_of_classes_whole_numbers_and_half_precision():
    logits, _ = logits_of((4, 3))
    labels = torch.tensor([0, 2, 1, 1])
    assert torch.equal(label_loss(logits, labels), cross_entropy(logits, labels))
    soft = F.softmax(logits_of((4, 3), seed=1)[0], -1)
    assert torch.equal(label_loss(logits, soft), cross_entropy(logits, soft))
    halves = label_loss(torch.tensor([[1.5], [-2.0]], dtype=torch.bfloat16), torch.tensor([1, 2]))
    assert halves.dtype == torch.float32 and halves.tolist() == [0.25, 16.0]


# ---- hidden states ----

# Two examples, two layers, three units, small enough to do by hand. Lengths of the states: 5 and 1; 2 and 13.
STUDENT = [[[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]], [[2.0, 0.0, 0.0], [5.0, 0.0, 12.0]]]
TEACHER = [[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]], [[0.0, -3.0, 0.0], [5.0, 0.0, 12.0]]]
GOLDEN = {
    # |(.6, .8, 0) - (0, 1, 0)|^2 = .36 + .04, the second layer points the same way; right angle: 1 + 1, and the same.
    True: [0.4, 2.0],
    # 9 + 9 and 1; 4 + 9 and nothing.
    False: [19.0, 13.0],
}


@pytest.mark.parametrize("normalize", [True, False])
def test_pkd_by_hand(normalize):
    """Equation 7 of Sun et al. 2019; the mean is smaller by layers times hidden units, here 6."""
    student, teacher = torch.tensor(STUDENT), torch.tensor(TEACHER)
    np.testing.assert_allclose(pkd_loss(student, teacher, normalize), GOLDEN[normalize], rtol=1e-6)
    mean = pkd_loss(student, teacher, normalize, "mean")
    np.testing.assert_allclose(mean, np.array(GOLDEN[normalize]) / 6, rtol=1e-6)
    assert torch.equal(pkd_loss(student, teacher), pkd_loss(student, teacher, True, "sum"))  # the paper's choice


def test_pkd_reductions_differ_by_layers_times_hidden_size():
    """BERT 12 -> 6: 5 mapped layers of 768 units make 3840."""
    student, teacher = torch.randn(2, 3, 5, 768, generator=torch.Generator().manual_seed(0))
    ratio = pkd_loss(student, teacher) / pkd_loss(student, teacher, reduction="mean")
    np.testing.assert_allclose(ratio, 3840, rtol=1e-5)


states = st.integers(1, 3).flatmap(
    lambda num_units: st.lists(  # layers of (student, teacher) states; not too near 0, where a direction is ill-defined
        st.tuples(
            *[st.lists(st.floats(0.5, 20, width=32), min_size=num_units, max_size=num_units)] * 2,
        ),
        min_size=1,
        max_size=3,
    )
)


@given(states, st.booleans(), st.sampled_from([-1.0, 1.0]))
def test_pkd_in_python_floats(layers, normalize, sign):
    student = [[sign * value for value in own] for own, _ in layers]
    teacher = [other for _, other in layers]
    expected = 0.0
    for own, other in zip(student, teacher, strict=True):
        if normalize:
            own, other = ([value / math.hypot(*state) for value in state] for state in (own, other))
        expected += math.fsum((a - b) ** 2 for a, b in zip(own, other, strict=True))
    loss = pkd_loss(torch.tensor([student]), torch.tensor([teacher]), normalize)
    np.testing.assert_allclose(loss, [expected], rtol=1e-4, atol=1e-5)
    if normalize:  # the length of a state is no matter
        scaled = pkd_loss(7 * torch.tensor([student]), torch.tensor([teacher]) / 3)
        torch.testing.assert_close(scaled, loss, rtol=1e-4, atol=1e-5)


def test_gradient_of_pkd_goes_to_the_student_only():
    """Normalised: the projection of -2 t across s, over |s|; nothing along s."""
    student, teacher = torch.tensor(STUDENT, requires_grad=True), torch.tensor(TEACHER, requires_grad=True)
    pkd_loss(student, teacher).sum().backward()
    assert teacher.grad is None
    s, t = np.array(STUDENT), np.array(TEACHER)
    length = np.linalg.norm(s, axis=-1, keepdims=True)
    s, t = s / length, t / np.linalg.norm(t, axis=-1, keepdims=True)
    expected = -2 * (t - (t * s).sum(-1, keepdims=True) * s) / length
    np.testing.assert_allclose(student.grad, expected, rtol=1e-5, atol=1e-6)
    plain = torch.tensor(STUDENT, requires_grad=True)
    pkd_loss(plain, teacher, normalize=False, reduction="mean").sum().backward()
    np.testing.assert_allclose(plain.grad, 2 * (np.array(STUDENT) - np.array(TEACHER)) / 6, rtol=1e-6)
    assert pkd_loss(plain.bfloat16(), teacher.bfloat16()).dtype == torch.float32
