"""Losses of distillation, as pure functions on logits.

Every function returns one loss per example, shape (num_examples,), in nats or squared logits. Who sums, divides
or weights them is the trainer's business, so that a loss is the same under any batch size.
"""

import torch.nn.functional as F
from torch import Tensor

from mixkd.recipes import Distance


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
