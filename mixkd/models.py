"""Teachers and students: load, choose layers, count parameters."""

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from mixkd import assets
from mixkd.store import UserError, content_id, file_sha256

#: Columns of a tokenised dataset that a model takes.
MODEL_COLUMNS = ("input_ids", "token_type_ids", "attention_mask")

LayerChoice = Literal["first", "last", "skip", "random"] | Sequence[int]


def resolve_checkpoint(name: str) -> str:
    """Where a model's files are: the cached asset for "minilm", else the folder or hub id that `name` is.

    Raises:
        UserError: If a name that looks like a path is no folder with a model in it.
    """
    if name == "minilm":
        return str(assets.fetch("minilm"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise UserError(f"{folder} holds no model (config.json is missing); give a folder save_pretrained wrote.")
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"There is no folder {name}; give `minilm`, an existing folder or a hub id.")
    return name


def checkpoint_fingerprint(name: str) -> str:
    """What identifies a model and its tokenizer: a hash of a folder's files, else the asset's or hub's name."""
    folder = Path(name).expanduser()
    if name == "minilm" or not folder.is_dir():
        return name
    files = [path for pattern in ("*.safetensors", "*.json", "*.txt", "*.model") for path in folder.glob(pattern)]
    return "sha256:" + content_id({path.name: file_sha256(path) for path in files})


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model.

    Raises:
        UserError: If it cannot be loaded.
    """
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer.from_pretrained, name)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # without files, transformers makes up an empty one
        raise UserError(f"{name} has no tokenizer (tokenizer.json or vocab.txt); save the model's own beside it.")
    return tokenizer


def load_config(name: str) -> PreTrainedConfig:
    """The configuration of a model, without its weights."""
    config: PreTrainedConfig = _load(AutoConfig.from_pretrained, name)
    return config


def load_encoder(name: str) -> PreTrainedModel:
    """A model without a head, in float32, in eval mode.

    Raises:
        UserError: If it cannot be loaded.
    """
    encoder: PreTrainedModel = _load(AutoModel.from_pretrained, name, dtype=torch.float32, use_safetensors=True)
    return encoder.eval()


def load_classifier(name: str, label_names: Sequence[str], seed: int = 0) -> PreTrainedModel:
    """A model with a classification head, in float32, in eval mode.

    A head that the checkpoint lacks is drawn from `seed`; nothing is unpickled.

    Args:
        name: "minilm", a folder, or a hub id.
        label_names: Names of the classes, in the order of their ids.
        seed: Seed of what is newly initialised.

    Raises:
        UserError: If the model cannot be loaded, or its head was made for other labels.
    """
    config = load_config(name)
    is_classifier = any("SequenceClassification" in architecture for architecture in config.architectures or [])
    if is_classifier:
        known = [str(config.id2label[index]) for index in range(config.num_labels)]
        is_generic = known == [f"LABEL_{index}" for index in range(len(label_names))]
        if not is_generic and [label.lower() for label in known] != [label.lower() for label in label_names]:
            raise UserError(
                f"{name} was fine-tuned for the labels {known}, but the task has {list(label_names)}; give a model "
                "without a head, or one for this task."
            )
    _set_labels(config, label_names)
    set_seed(seed)
    model, loading = _load(
        AutoModelForSequenceClassification.from_pretrained,
        name,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
    )
    # A checkpoint without a head, or without the pooler that belongs to it, is how a pretrained model comes.
    body = [key for key in loading["missing_keys"] if key.startswith(model.base_model_prefix) and "pooler" not in key]
    if body:
        raise UserError(f"{name} lacks weights that its config.json asks for ({body[0]}, ...); give a whole one.")
    return model.eval()


def build_student(
    teacher: PreTrainedModel, num_layers: int, init: LayerChoice = "first", seed: int = 0
) -> PreTrainedModel:
    """A student with some of the layers of a model, everything else alike, in eval mode.

    Args:
        teacher: The model to take weights from: the pretrained one with a fresh head, or the fine-tuned teacher.
        num_layers: Layers of the student.
        init: "first" or "last" layers; "skip": evenly spaced from the first to the last one (DistilBERT's
            0, 2, 4, 7, 9, 11 of 12); "random": no weight is taken; or the indices of layers, from 0.
        seed: Seed of "random".

    Raises:
        ValueError: If the teacher does not have these layers.
    """
    total = teacher.config.num_hidden_layers
    chosen = choose_layers(total, num_layers, init)
    config = type(teacher.config).from_dict({**teacher.config.to_dict(), "num_hidden_layers": num_layers})
    set_seed(seed)
    student: PreTrainedModel = type(teacher)(config)
    if init != "random":
        prefix = f"{_named_layers(teacher)[0]}."
        weights = {}
        for key, tensor in teacher.state_dict().items():
            if key.startswith(prefix):
                index, _, rest = key.removeprefix(prefix).partition(".")
                for position in (i for i, layer in enumerate(chosen) if layer == int(index)):
                    weights[f"{prefix}{position}.{rest}"] = tensor
            else:
                weights[key] = tensor
        student.load_state_dict(weights)
    return student.eval()


def choose_layers(total: int, num_layers: int, init: LayerChoice) -> list[int]:
    """Indices, from 0, of the teacher's layers that a student starts from; see `build_student`."""
    if isinstance(init, str):
        if not 1 <= num_layers <= total:
            raise ValueError(f"a student of a {total}-layer teacher has 1 to {total} layers, not {num_layers}")
        choices = {
            "first": list(range(num_layers)),
            "last": list(range(total - num_layers, total)),
            "skip": [round(x) for x in np.linspace(0, total - 1, num_layers)],
            "random": list(range(num_layers)),
        }
        if init not in choices:
            raise ValueError(f"init is {init!r}; choose one of {', '.join(choices)} or a list of layer indices")
        return choices[init]
    chosen = list(init)
    if len(chosen) != num_layers or not all(0 <= layer < total for layer in chosen):
        raise ValueError(f"init {chosen} must name {num_layers} layers between 0 and {total - 1}")
    return chosen


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Number of parameters: all, and those of the embeddings (words, positions, segments and their LayerNorm)."""
    embeddings = next(module for name, module in model.base_model.named_children() if name == "embeddings")
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in embeddings.parameters())


def model_columns(model: PreTrainedModel) -> tuple[str, ...]:
    """Those of `MODEL_COLUMNS` that a model's forward takes: DistilBERT has no segment ids."""
    accepted = inspect.signature(model.forward).parameters
    return tuple(name for name in MODEL_COLUMNS if name in accepted)


def _load(load, name, **options):  # type: ignore[no-untyped-def]
    """Call a `from_pretrained`; what can go wrong with a name becomes one sentence."""
    checkpoint = resolve_checkpoint(name)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the load report of a fresh head or of left-out layers is no news
    progress_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return load(checkpoint, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if os.path.isdir(checkpoint):
            raise UserError(f"{checkpoint} cannot be loaded: {_first_line(error)}") from error
        if isinstance(error, RuntimeError | SafetensorError):
            raise UserError(f"The files of the model {name!r} cannot be used: {_first_line(error)}") from error
        raise UserError(
            f"The model {name!r} is not in the local cache and could not be fetched from the hub; check the name and "
            "the connection, or give a local folder or `minilm`."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress_bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _set_labels(config: PreTrainedConfig, label_names: Sequence[str]) -> None:
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    config.num_labels = len(label_names)


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer layers, first to last."""
    return _named_layers(model)[1]


def _named_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The name of the transformer layers, such as "bert.encoder.layer", and the layers."""
    total = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == total:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of {total} layers to choose from")
