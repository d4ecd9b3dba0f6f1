"""One forward over originals and mixed examples, mixed in words or inside the network; made cheap, or compiled."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from mixkd.mixup import mix_embeddings, mix_masks, mix_token_types
from mixkd.models import model_columns, transformer_layers
from mixkd.recipes import Level
from mixkd.store import UserError


def mixed_inputs(
    network: PreTrainedModel, level: Level, texts: dict[str, Tensor], lam: Tensor
) -> tuple[dict[str, Tensor], AbstractContextManager[None]]:
    """A network's inputs for originals and mixed examples, and the context in which it must be called.

    Args:
        network: An encoder such as BERT, RoBERTa or DistilBERT.
        level: What is mixed, see `mixkd.recipes.MixupSettings`; in layers of this network.
        texts: input_ids, attention_mask and token_type_ids of the originals, then of the sources, then of the
            partners of the mixed examples, each of shape (num_originals + 2 * num_mixed, length).
        lam: Coefficients of the sources, shape (num_mixed,).

    Returns:
        Inputs whose outputs are those of the originals and then of the mixed examples.
    """
    num_mixed = len(lam)
    sizes = [len(texts["input_ids"]) - 2 * num_mixed, num_mixed, num_mixed]
    columns = model_columns(network)
    if level != "embeddings":
        inputs = {name: tensor for name, tensor in texts.items() if name in columns}
        return inputs, _mixing_states(network, level, sizes, texts["attention_mask"], lam)
    _, source_mask, partner_mask = texts["attention_mask"].split(sizes)
    embeddings = network.get_input_embeddings()(texts["input_ids"])  # (rows, length, hidden)
    inputs = {
        "inputs_embeds": _mixed(embeddings, sizes, lambda source, partner: mix_embeddings(source, partner, lam)),
        "attention_mask": _mixed(texts["attention_mask"], sizes, mix_masks),
    }
    if "token_type_ids" in columns:
        inputs["token_type_ids"] = _mixed(
            texts["token_type_ids"],
            sizes,
            lambda source, partner: mix_token_types(source, partner, source_mask, partner_mask),
        )
    return inputs, nullcontext()


def _mixed(rows: Tensor, sizes: list[int], mix: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Originals and then mixed rows, shape (num_originals + num_mixed, ...)."""
    original, source, partner = rows.split(sizes)
    return torch.cat([original, mix(source, partner)])


@contextmanager
def _mixing_states(
    network: PreTrainedModel, level: int, sizes: list[int], attention_mask: Tensor, lam: Tensor
) -> Iterator[None]:
    """Within this context, a forward mixes the states after layer `level`; above it, mixed rows have their own mask."""
    mixed_mask = _mixed(attention_mask, sizes, mix_masks)

    def mix_output(_: nn.Module, args: tuple[Any, ...], states: Tensor) -> Tensor:
        return _mixed(states, sizes, lambda source, partner: mix_embeddings(source, partner, lam))

    def use_mixed_mask(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        mask = create_bidirectional_mask(config=network.config, inputs_embeds=args[0], attention_mask=mixed_mask)
        return (args[0], mask, *args[2:])

    layers = transformer_layers(network)
    with ExitStack() as stack:
        hooks = [layers[level - 1].register_forward_hook(mix_output)]
        hooks += [layer.register_forward_pre_hook(use_mixed_mask) for layer in layers[level:]]
        for hook in hooks:
            stack.callback(hook.remove)
        yield


@contextmanager
def first_token_only(model: PreTrainedModel | None) -> Iterator[None]:
    """Within this context a model's last layer computes the one state that its classifier reads: the first token's.

    After its attention a layer works on each token alone, so the others can be dropped there without changing the
    logits or any gradient: three quarters of the layer's products. For BERT and RoBERTa; others stay as they are, as
    does None. The last of the hidden states has length 1.
    """
    if model is None or model.config.model_type not in ("bert", "roberta"):
        yield
        return

    def keep_first(_: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(states[:, :1] for states in args)  # attention's output and its input, (batch, length, hidden)

    hook = transformer_layers(model)[-1].attention.output.register_forward_pre_hook(keep_first)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def compiled(*models: PreTrainedModel | None) -> Iterator[None]:
    """Within this context the models' forwards are compiled by torch, which fuses what lies between matrix products.

    They draw the random numbers that they draw uncompiled, but for the dropout of attention where a GPU's batch has no
    padding: traced, a mask stays, which takes another kernel. Hooks must be set before: torch does not see them come
    or go. None stays as it is.

    Raises:
        UserError: If there is no compiler here that it can use.
        torch.OutOfMemoryError: If compiling takes more memory than there is.
    """
    present = [model for model in models if model is not None]
    if not present:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # takes a second

    for model in present:
        maybe_install_capturing_hooks(model.base_model)  # else the first forward that asks for states sets hooks
        model.compile(dynamic=True, options={"fallback_random": True})
    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from error
        raise UserError(
            f"torch cannot compile the model here: {compiler_error(error)}. Leave torch_compile out."
        ) from error
    finally:
        for model in present:
            model._compiled_call_impl = None  # torch has no public way back
        torch.compiler.reset()  # all models share a cache of eight graphs, and beyond them nothing is compiled


def compiler_error(error: Exception) -> str:
    """What torch's compiler says was wrong: the last line of its message that names an error, or the first one."""
    lines = str(error).strip().splitlines()
    return ([line for line in lines if re.match(r"[\w.]+: \S", line)] or lines)[-1].rstrip(".")
