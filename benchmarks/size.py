"""Size of a model: bytes on disk, floating-point operations, memory."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedConfig, PreTrainedModel

from benchmarks import peak_memory
from benchmarks.timing import OUT_OF_MEMORY


def size_bytes(folder: Path) -> int:
    """Bytes of the weights on disk, as `save_pretrained` wrote them."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@torch.inference_mode()
def count_flops(model: PreTrainedModel, batch: dict[str, Tensor]) -> int:
    """Floating-point operations of one forward pass: matrix products only, a multiply-add is two.

    The model must be on the CPU.
    """
    with FlopCounterMode(display=False, custom_mapping=FLOPS_OF_KERNELS) as counter:
        model(**batch)
    return counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * sdpa_flop_count(query, key, value)  # without the scores, which it computes again


#: Kernels that torch's own table lacks, those of the CPU, and those of which it counts what they compute again.
FLOPS_OF_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_backward: _attention_backward_flops,
    torch.ops.aten._scaled_dot_product_efficient_attention_backward: _attention_backward_flops,
    torch.ops.aten._scaled_dot_product_cudnn_attention_backward: _attention_backward_flops,
}


def bert_flops(config: PreTrainedConfig, batch_size: int, sequence_length: int) -> int:
    """The closed form of `count_flops` for BERT with a classification head.

    With L tokens, hidden size h and intermediate size i, a layer takes 8 L h^2 (query, key, value, output), 4 L^2 h
    (scores and their use) and 4 L h i (feed-forward); the pooler takes 2 h^2 and the head 2 h per class.
    """
    length, hidden = sequence_length, config.hidden_size
    layer = 8 * length * hidden**2 + 4 * length**2 * hidden + 4 * length * hidden * config.intermediate_size
    return batch_size * (config.num_hidden_layers * layer + 2 * hidden**2 + 2 * hidden * config.num_labels)


def memory_shortage(config: PreTrainedConfig, batch_size: int, sequence_length: int, device: torch.device) -> str:
    """Why the activations of a float32 forward pass do not fit into what is free now; empty if they do.

    Counted is the most that can be alive in one layer: six tensors of hidden size, two of intermediate size and two
    of attention scores.
    """
    per_token = 6 * config.hidden_size + 2 * config.intermediate_size
    per_token += 2 * config.num_attention_heads * sequence_length
    needed = 4 * batch_size * sequence_length * per_token
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed <= free:
        return ""
    return f"too little memory: needs about {needed / 1e9:.2g} GB, {free / 1e9:.2g} GB are free"


def peak_memory_bytes(folder: Path, batch_size: int, sequence_length: int, device: torch.device) -> int:
    """Memory that loading a checkpoint and one forward pass take at most, measured in a fresh process.

    See `benchmarks.peak_memory` for what is counted.

    Raises:
        MemoryError: If that process finds too little memory.
        RuntimeError: If it fails otherwise; its error is on standard error.
    """
    arguments = [folder, batch_size, sequence_length, device, torch.get_num_threads()]
    return bytes_told_by([peak_memory.__file__, *map(str, arguments)])


def bytes_told_by(program: Sequence[str]) -> int:
    """The number that a Python program prints last, run in a process of its own.

    Raises:
        MemoryError: If it finds too little memory, or is killed, as systems do with a process that takes too much.
        RuntimeError: If it fails otherwise; its error is on standard error.
    """
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode == -9 or any(words in done.stderr for words in OUT_OF_MEMORY):
        raise MemoryError("a process of its own had to end")
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"{program[0]} ended with exit code {done.returncode}")
    return int(done.stdout.split()[-1])
