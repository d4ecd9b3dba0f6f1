"""What was found, in sentences generated from the verdicts."""

from collections import Counter
from collections.abc import Mapping

from reports.verdicts import Judged

#: What a practitioner may do -> the claims that answer it, with limited and with the least data; all about scores.
DECISIONS: Mapping[str, tuple[str, str | None]] = {
    "MixKD (SM+TMKD) rather than fine-tune a small model on the labels": ("E02", "E14"),
    "MixKD (SM+TMKD) rather than distil without mixup (KD)": ("E01", "E13"),
    "MixKD (SM+TMKD) rather than KD with twice the epochs, as much work in the student": ("E20", "E21"),
    "MixKD (SM+TMKD) rather than imitate hidden states, too (PKD)": ("E10", None),
    "MixKD (SM+TMKD) rather than KD that starts from every other layer (DistilBERT)": ("E11", None),
    "MixKD (SM+TMKD) rather than KD, both from every other layer": ("E18", None),
    "mixed inputs beside the teacher's answers on the originals (SM+TMKD+KD rather than KD)": ("E17", None),
    "the same, both from every other layer": ("E19", None),
    "SM+TMKD+KD rather than KD with twice the epochs": ("E22", "E23"),
    "the teacher's answers on mixed inputs in place of those on the originals (TMKD rather than KD)": ("E04", None),
    "mixup without a teacher (SM) rather than fine-tune on the labels": ("E03", None),
}
ANSWERS = {"supported": "yes", "contradicted": "no", "inconclusive": "not shown", "not run": "not run"}


def decisions(judged: list[Judged]) -> dict[str, list[Judged | None]]:
    """The verdicts on which every decision rests; None where there is no claim."""
    by_id = {item.claim.id: item for item in judged}
    return {what: [by_id.get(key or "") for key in keys] for what, keys in DECISIONS.items()}


def preliminary(judged: list[Judged]) -> str:
    """Whose seeds are lacking."""
    lacking: dict[str, list[str]] = {}
    for item in judged:
        if item.results and item.verdict.num_samples < item.claim.num_seeds:
            lacking.setdefault(f"{item.verdict.num_samples} of {item.claim.num_seeds}", []).append(item.claim.id)
    told = "; ".join(f"{', '.join(ids)} ({seeds})" for seeds, ids in lacking.items())
    return f"Preliminary, for seeds are lacking: {told}." if told else ""


def summary(judged: list[Judged]) -> list[str]:
    """What was found, in a few plain sentences generated from the verdicts."""
    counts = Counter(item.verdict.verdict for item in judged)
    if counts["not run"] == len(judged):
        return [f"None of the {len(judged)} claims has been run yet; this store holds no usable evidence for them."]
    of_paper = [item for item in judged if item.claim.source.startswith("paper") and item.results]
    of_paper_counts = Counter(item.verdict.verdict for item in of_paper)
    controls = [item for item in judged if item.claim.family == "control" and item.results]
    refuted = sum(item.verdict.verdict == "contradicted" for item in controls)
    told = [f"{counts[outcome]} {outcome}" for outcome in ("supported", "contradicted", "inconclusive", "not run")]
    if controls:
        told[1] += f" ({refuted} of them among the {len(controls)} negative controls that were run)"
    sentences = [f"Of {len(judged)} claims, {', '.join(told[:-1])} and {told[-1]}."]
    if of_paper:
        told = [f"{of_paper_counts[outcome]} {outcome}" for outcome in ("supported", "contradicted", "inconclusive")]
        sentences.append(
            "Claims in the paper's direction that were run (data, models, tests and numbers are ours): "
            f"{told[0]}, {told[1]} and {told[2]}."
        )
    sentences += filter(None, [preliminary(judged)])
    if unexpected := [item.claim.id for item in judged if item.is_surprise]:
        sentences.append(f"Decided against expectation: {', '.join(unexpected)}.")
    else:
        sentences.append("No claim was decided against its expectation.")
    return sentences
