"""One update on a GPU: Qwen3-0.6B's shape (random weights), trajectories of 16,384 tokens, bfloat16, LoRA and full.

    python tests/bench/bench_gpu_update.py [--training lora,full] [--tokens 16384] [--profile] [--json]
    python tests/bench/bench_gpu_update.py --device cpu --shape tiny --tokens 512      # the same code without a GPU

Tokens/s over `--repeats` updates after one to warm up; peak memory as the allocator counted it (on CPUs as the kernel
did). MFU is useful floating-point operations a second over the device's peak (--peak-teraflops, 989 of an H100's dense
bfloat16). Useful are, a token:

    matrices     6 a parameter of the blocks' matrices: 2 forward, 2 for inputs' gradients, 2 for weights' gradients;
                 with LoRA 4 a frozen parameter and 6 of the adapter's
    head         likewise, for the sampled tokens alone
    attention    6 x layers x trajectory's tokens x heads x head width: causal, half of all pairs, forward and back

What is computed a second time (recomputed activations, chunks of logits) is time, and is not counted as useful.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import update_building as building


def uniform(count, tokens, vocabulary):
    """Trajectories of one length; about half of each is sampled, in turns of 256 tokens after observations of 256."""
    rng = np.random.default_rng(0)
    sampled = (np.arange(tokens) // min(256, tokens // 8)) % 2 == 1
    sampled[-1] = True
    behaviour = np.where(sampled, -np.log(vocabulary), 0).astype(np.float32)
    return [
        (rng.integers(3, vocabulary, size=tokens), sampled, behaviour, (-1.0, 1.0)[number % 2])
        for number in range(count)
    ]


def useful_operations(shape, training, tokens, sampled):
    """Of one trajectory's forward and backward pass, by the formula above."""
    head = shape.embedding_parameters
    matrices = sum(inputs * outputs for inputs, outputs in shape.linears().values()) * shape.layers
    adapter = shape.adapter_parameters(16, tuple(shape.linears()))
    attention = 6 * shape.layers * tokens * tokens * shape.heads * shape.head_width
    if training == "full":
        return 6 * (matrices * tokens + head * sampled) + attention
    return 4 * (matrices * tokens + head * sampled) + 6 * adapter * tokens + attention


def measure(options, folder, training):
    import torch

    from learner.trainer.memory import estimate, read_shape
    from learner.trainer.update import update

    on_gpu = options.device == "cuda"
    sections = {
        "training": training,
        "dtype": options.dtype,
        "micro_batch_tokens": options.budget or options.tokens,
        "log_prob_chunk": options.chunk,
        "recompute_activations": not options.store,
    }
    policy, optimizer, config = building.learner(folder, sections, device=options.device)
    made = uniform(options.trajectories, options.tokens, policy.vocabulary)
    trajectories = building.scored(made)

    def step():
        told = update(policy, optimizer, trajectories, config, step=1, policy_version=0, seed=1)
        if on_gpu:
            torch.cuda.synchronize()
        return {"loss": told.loss, "gradient_norm": round(told.gradient_norm, 5)}

    step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(options.repeats):
            told = step()
        seconds = (time.perf_counter() - began) / options.repeats
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        told = building.measured(step, options.repeats)
        seconds, peak = told["seconds"], told["peak_megabytes"] + told["before_megabytes"]
    if options.profile:
        profile(step, on_gpu)
    shape = read_shape(Path(folder))
    operations = options.trajectories * useful_operations(shape, training, options.tokens, int(made[0][1].sum()))
    guess = estimate(shape, config.model, config.batch, longest=options.tokens)
    return {
        "tokens_per_second": round(options.trajectories * options.tokens / seconds, 1),
        "seconds": round(seconds, 3),
        "peak_megabytes": round(peak, 1),
        "estimate_megabytes": round(guess.total / 2**20, 1),
        "useful_teraflops": round(operations / seconds / 1e12, 3),
        "mfu": round(operations / seconds / 1e12 / options.peak_teraflops, 4) if on_gpu else None,
        "loss": told["loss"],
        "gradient_norm": told["gradient_norm"],
    }


def profile(step, on_gpu):
    """Where the time goes, on standard error."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as recorded:
        step()
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    sys.stderr.write(recorded.key_averages().table(sort_by=order, row_limit=15) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=tuple(building.SHAPES), default="qwen3-0.6b")
    parser.add_argument("--training", default="lora,full", help="lora, full, or both separated by a comma")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=16_384, help="of each trajectory")
    parser.add_argument("--trajectories", type=int, default=4)
    parser.add_argument("--budget", type=int, help="tokens of a micro-batch; default: one trajectory")
    parser.add_argument("--chunk", type=int, default=1024, help="positions whose logits exist at a time")
    parser.add_argument("--store", action="store_true", help="keep activations rather than recompute them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-teraflops", type=float, default=989.0)
    parser.add_argument("--profile", action="store_true", help="the costliest operations, on standard error")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU: torch sees none here, so nothing was measured; --device cpu runs the same code")
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    words = ("shape", "dtype", "tokens", "trajectories", "chunk", "store")
    result = {"device": name, "torch": torch.__version__, **{word: getattr(options, word) for word in words}}
    with tempfile.TemporaryDirectory() as folder:
        building.make_folder(folder, building.SHAPES[options.shape], options.tokens + 64, options.dtype)
        for training in options.training.split(","):
            result[training] = measure(options, folder, training)
            if not options.json:
                print(training, result[training], flush=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
