"""Translation by MarianMT, the neural opus-mt models, through transformers: greedy, in float32.

In floating point a batch of another shape can change the last bits of a score, so two words with nearly the same score
can change places with the texts that share the batch; the cache keeps the first answer.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixkd.store import UserError, file_sha256

_BATCH_SIZE = 32  # texts in one forward pass
_MAX_LENGTH = 512  # tokens; longer texts are cut


def identity(pair: str) -> dict[str, Any]:
    """What decides a translation besides the text: both checkpoints (the folder's content, or hub id), and decoding.

    Raises:
        UserError: If the pair does not name two checkpoints.
    """
    contents: list[Any] = []
    for name in _names(pair):
        folder = Path(name).expanduser()
        files = sorted(path for suffix in ("json", "spm", "safetensors") for path in folder.glob(f"*.{suffix}"))
        contents.append({path.name: file_sha256(path) for path in files} if folder.is_dir() else name)
    return {"checkpoints": contents, "decoding": "greedy", "max_length": _MAX_LENGTH}


def translator(pair: str, device: str | None = None) -> Callable[[list[str]], list[str]]:
    """A function that translates texts forward and back.

    Args:
        pair: Two hub ids or folders, "FORWARD,BACK".
        device: Where to compute; None: the GPU if there is one.

    Raises:
        UserError: If sentencepiece is missing or a checkpoint cannot be loaded.
    """
    names = _names(pair)
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError("Back-translation with Marian needs sentencepiece: install it with `pip install 'mixkd[bt]'`.")
    import torch

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    engines = [_load(name, place) for name in names]

    def translate(texts: list[str]) -> list[str]:
        for model, tokenizer in engines:
            texts = _translate(model, tokenizer, texts)
        return texts

    return translate


def _translate(model: Any, tokenizer: Any, texts: list[str]) -> list[str]:
    """Texts in one direction, batched by length."""
    import torch

    limit = min(_MAX_LENGTH, model.config.max_position_embeddings)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    results = [""] * len(texts)
    for start in range(0, len(order), _BATCH_SIZE):
        rows = order[start : start + _BATCH_SIZE]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        )
        with torch.inference_mode():
            tokens = model.generate(**batch.to(model.device), do_sample=False, num_beams=1, max_length=limit)
        for i, result in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            results[i] = " ".join(result.split())
    return results


def _load(name: str, device: str) -> tuple[Any, Any]:
    """Model and tokenizer; nothing is unpickled."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, MarianMTModel, MarianTokenizer

    from mixkd.models import resolve_checkpoint

    checkpoint = resolve_checkpoint(name)
    try:
        kind = AutoConfig.from_pretrained(checkpoint).model_type
        if kind != "marian":
            raise UserError(f"{name} is a {kind} model: give bt_pair two MarianMT checkpoints, such as opus-mt ones.")
        model: Any = MarianMTModel.from_pretrained(checkpoint, dtype=torch.float32, use_safetensors=True)
        tokenizer = MarianTokenizer.from_pretrained(checkpoint)
    except TypeError as error:  # of a path that is None
        raise UserError(f"{name} lacks its tokenizer: put source.spm, target.spm and vocab.json beside it.") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        if "model.safetensors" in reason:
            raise UserError(
                f"{name} has no model.safetensors, and pickled weights are never loaded: convert it once, if you trust "
                f'it, with `python -c "from transformers import MarianMTModel as M, MarianTokenizer as T; [c.'
                f"from_pretrained('{name}').save_pretrained('FOLDER') for c in (M, T)]\"`, and give FOLDER in bt_pair."
            ) from error
        raise UserError(
            f"{name} cannot be loaded ({reason}): check the name and the connection, or give bt_pair a local folder."
        ) from error
    return model.to(device).eval(), tokenizer


def _names(pair: str) -> list[str]:
    names = [name.strip() for name in pair.split(",")]
    if len(names) != 2 or not all(names):
        raise UserError(
            f"bt_pair for marian is two checkpoints, forward and back, not {pair!r}: for example "
            "Helsinki-NLP/opus-mt-en-es,Helsinki-NLP/opus-mt-es-en."
        )
    return names
