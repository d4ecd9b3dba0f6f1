"""Losses of distillation, as pure functions on logits.

Every function returns one loss per example, shape (num_examples,), in nats or squared logits. Who sums, divides
or weights them is the trainer's business, so that a loss is the same under any batch size.
"""

import torch.nn.functional as F
from torch import Tensor

from mixkd.recipes import Distance, Reduction


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """L_MLE and L_SM: cross-entropy, or for a regression (one logit) the squared error.

    Args:
        logits: Shape (num_examples, num_classes); (num_examples, 1) for a regression.
        labels: What `cross_entropy` takes, or real numbers, shape (num_examples,).

    Returns:
        Nats or squared units of the label, shape (num_examples,).
    """
    if logits.shape[-1] == 1:
        return (logits[:, 0].float() - labels.float()).square()
    return cross_entropy(logits, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with classes or with distributions: L_MLE and L_SM of MixKD.

    Args:
        logits: Shape (num_examples, num_classes).
        labels: Classes, int64, shape (num_examples,), or probabilities, shape (num_examples, num_classes).

    Returns:
        Nats, shape (num_examples,).
    """
    return F.cross_entropy(logits.float(), labels, reduction="none")


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    distance: Distance = "mse",
    temperature: float = 1.0,
) -> Tensor:
    """Distance of the student's to the teacher's prediction: L_TMKD of MixKD, and L_KD on original examples.

    "mse" is the squared difference of logits, averaged over classes (MixKD). "kl" is
    T^2 KL(softmax(z_T / T) || softmax(z_S / T)), summed over classes (Hinton et al. 2015): T^2 keeps the
    gradient's size as T grows, and tends to the squared distance of centred logits over twice the number of classes.

    Args:
        student_logits: Shape (num_examples, num_classes).
        teacher_logits: Same shape; no gradient flows into them.
        distance: "mse" or "kl".
        temperature: T; used by "kl" only.

    Returns:
        Shape (num_examples,).
    """
    student_logits, teacher_logits = student_logits.float(), teacher_logits.detach().float()
    if distance == "mse":
        return (student_logits - teacher_logits).square().mean(dim=-1)
    student, teacher = (F.log_softmax(z / temperature, dim=-1) for z in (student_logits, teacher_logits))
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1) * temperature**2


def pkd_loss(
    student_states: Tensor, teacher_states: Tensor, normalize: bool = True, reduction: Reduction = "sum"
) -> Tensor:
    """Distance of hidden states, L_PT of patient knowledge distillation (Sun et al. 2019, equation 7).

    Args:
        student_states: [CLS] states after the student's mapped layers, shape (num_examples, num_mapped, hidden).
        teacher_states: The teacher's, same shape; no gradient flows into them.
        normalize: Whether each state is scaled to length 1 first.
        reduction: "sum" of the squared differences over layers and hidden units, or their "mean".

    Returns:
        Shape (num_examples,).
    """
    student_states, teacher_states = student_states.float(), teacher_states.detach().float()
    if normalize:
        student_states, teacher_states = F.normalize(student_states, dim=-1), F.normalize(teacher_states, dim=-1)
    squares = (student_states - teacher_states).square()  # (num_examples, num_mapped, hidden)
    return squares.sum(dim=(1, 2)) if reduction == "sum" else squares.mean(dim=(1, 2))
