"""Peak memory of one model; run as a program, in a process that has done nothing else.

It is the growth from before loading to the high-water mark: on the CPU of the resident set, on a GPU of what torch's
allocator has given out.
"""

import sys
from pathlib import Path


def main(folder: str, batch_size: int, sequence_length: int, device: str, num_threads: int) -> None:
    """Load a checkpoint, read all of its weights, run it once, and print the bytes that took."""
    import psutil
    import torch
    import transformers

    torch.set_num_threads(num_threads)
    transformers.utils.logging.disable_progress_bar()
    # Libraries and torch's threads and buffers are not the model's: they are there before the first reading.
    model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    square = torch.ones(512, 512, device=device)
    for bias in (None, square[0]):  # on a GPU, each has a workspace of its own, and a large one
        torch.nn.functional.linear(square, square, bias)
    is_gpu = device.startswith("cuda")
    input_ids = torch.ones((batch_size, sequence_length), dtype=torch.long, device=device)
    forget_peak()
    before = torch.cuda.memory_allocated() if is_gpu else psutil.Process().memory_info().rss
    model = model_class.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    with torch.inference_mode():
        # Weights are mapped from the file, and resident once they are read: all are, after enough different texts.
        for weight in model.parameters():
            weight.sum()
        model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    print((torch.cuda.max_memory_allocated() if is_gpu else peak_resident_bytes()) - before)


def forget_peak() -> None:
    """Let the high-water mark start from here; where the system has no such switch, the imports count too."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_resident_bytes() -> int:
    """High-water mark of this process's resident set."""
    if sys.platform == "linux":  # not getrusage: its mark is inherited from the parent process
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
