"""One update (forward, backward, optimizer step) on the same model and the same 64 trajectories of skewed lengths.

    python tests/bench/bench_update.py --shape tiny|60m [--threads 1] [--only ours,trl] [--trl-python PYTHON] [--json]

Contestants, each in a process of its own, float32, on CPU threads of the same number:

ours                learner.trainer.update with its defaults: packed micro-batches, chunked log-probs
ours_lean           the same with recompute_activations, budgets of 2,048 tokens and chunks of 256 positions
one_a_pass          the same as ours with a budget of 1: every trajectory passes alone
trl                 TRL's GRPOTrainer.training_step on all 64 in one padded batch, then its optimizer's step
trl_accumulated     the same in 8 micro-batches of 8 (gradient accumulation 8), cut by TRL's own split_tensor_dict
trl_stored, trl_accumulated_stored   both without TRL's default of recomputing activations, when named in --only

TRL is driven where its own second iteration over a generation batch begins: prompts padded on the left, completions on
the right, observations out of the loss by its tool_mask, advantages and old log-probs given, so that compute_loss runs
as it is. Its generation is not part of it. Loss type `grpo` (mean over a trajectory's tokens, then over trajectories)
is our aggregation `trajectory_mean`: loss and gradient norm, which are printed, must agree among all contestants.

Tokens are those of the trajectories, without padding, for all contestants. Beside other work on the machine, compare
processor seconds: the wall's are the neighbours' too. Peak memory is the process's highest
resident memory in the update less what it held before; weights and moments are there before, gradients are not.

TRL stands in tests/bench/requirements.txt: `pip install --no-deps -r tests/bench/requirements.txt` beside the project's
own requirements, or in another virtualenv, whose python --trl-python names.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import update_building as building

OURS = {
    "ours": {},
    "ours_lean": {"recompute_activations": True, "micro_batch_tokens": 2048, "log_prob_chunk": 256},
    "one_a_pass": {"micro_batch_tokens": 1},
}
TRL = {
    "trl": {"accumulation": 1, "recompute": True},
    "trl_accumulated": {"accumulation": 8, "recompute": True},
    "trl_stored": {"accumulation": 1, "recompute": False},
    "trl_accumulated_stored": {"accumulation": 8, "recompute": False},
}
DEFAULT = (*OURS, "trl", "trl_accumulated")  # the stored ones take many times the memory: name them in --only
CLIP, CLIP_NORM, RATE, BETAS, EPSILON = 0.2, 0.05, 1e-6, (0.9, 0.95), 1e-5
OBJECTIVE = {
    "objective": {"aggregation": "trajectory_mean", "clip": CLIP},
    "optimizer": {
        "learning_rate": RATE,
        "clip_norm": CLIP_NORM,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "epsilon": EPSILON,
    },
}


def ours(folder, made, warm, options, repeats):
    """The learner's own step; `options` of its sections model and batch."""
    policy, optimizer, config = building.learner(folder, options, **OBJECTIVE)

    def step(trajectories):
        from learner.trainer.update import update

        told = update(policy, optimizer, trajectories, config, step=1, policy_version=0, seed=1)
        return {"loss": round(told.loss, 6), "gradient_norm": round(told.gradient_norm, 5)}

    step(building.scored(warm))
    trajectories = building.scored(made)
    return building.measured(lambda: step(trajectories), repeats)


def trl(folder, made, warm, options, repeats):
    """GRPOTrainer's training steps of one optimizer step, and that step, as transformers' Trainer does them."""
    import warnings

    warnings.simplefilter("ignore")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import split_tensor_dict

    accumulation = options["accumulation"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # out of the file's memory map, as ours are
    with tempfile.TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            processing_class=AutoTokenizer.from_pretrained(folder),
            train_dataset=Dataset.from_dict({"prompt": ["a"] * len(made)}),
            args=GRPOConfig(
                output_dir=scratch,
                use_cpu=True,
                bf16=False,
                per_device_train_batch_size=len(made) // accumulation,
                gradient_accumulation_steps=accumulation,
                gradient_checkpointing=options["recompute"],
                num_generations=8,
                num_iterations=2,
                loss_type="grpo",
                epsilon=CLIP,
                beta=0.0,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                adam_beta1=BETAS[0],
                adam_beta2=BETAS[1],
                adam_epsilon=EPSILON,
                max_grad_norm=CLIP_NORM,
                report_to=[],
            ),
        )
    if options["recompute"]:
        trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trainer.create_optimizer_and_scheduler(2)
    trainer.current_gradient_accumulation_steps = accumulation

    def step(batch):
        trainer._buffered_inputs = split_tensor_dict(batch, accumulation)
        trainer._step = accumulation  # the second iteration over what was generated: nothing is generated anew
        loss = sum(float(trainer.training_step(trainer.model, None, None)) for _ in range(accumulation))
        norm = trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return {"loss": round(loss, 6), "gradient_norm": round(float(norm), 5)}

    step(padded(warm * (len(made) // len(warm))))
    batch = padded(made)
    return building.measured(lambda: step(batch), repeats)


def padded(made):
    """A generation batch in GRPOTrainer's form: prompts [B, P] padded on the left, completions [B, C] on the right."""
    import numpy as np
    import torch

    begins = [int(np.flatnonzero(sampled)[0]) for _, sampled, _, _ in made]
    prompt = max(begins)
    rest = max(len(tokens) - begin for (tokens, *_), begin in zip(made, begins, strict=True))
    batch = {
        "prompt_ids": torch.zeros(len(made), prompt, dtype=torch.int64),
        "prompt_mask": torch.zeros(len(made), prompt, dtype=torch.int64),
        "completion_ids": torch.zeros(len(made), rest, dtype=torch.int64),
        "completion_mask": torch.zeros(len(made), rest, dtype=torch.int64),
        "tool_mask": torch.zeros(len(made), rest, dtype=torch.int64),
        "old_per_token_logps": torch.zeros(len(made), rest),
        "advantages": torch.tensor([advantage for *_, advantage in made]),
    }
    for row, ((tokens, sampled, behaviour, _), begin) in enumerate(zip(made, begins, strict=True)):
        length = len(tokens) - begin
        batch["prompt_ids"][row, prompt - begin :] = torch.from_numpy(tokens[:begin])
        batch["prompt_mask"][row, prompt - begin :] = 1
        batch["completion_ids"][row, :length] = torch.from_numpy(tokens[begin:])
        batch["completion_mask"][row, :length] = 1
        batch["tool_mask"][row, :length] = torch.from_numpy(sampled[begin:].astype(np.int64))
        batch["old_per_token_logps"][row, :length] = torch.from_numpy(behaviour[begin:])
    return batch


def compete(options):
    """In a child: one contestant's figures as JSON."""
    made, warm = building.prepared(options)
    if options.contestant in OURS:
        figures = ours(options.folder, made, warm, OURS[options.contestant], options.repeats)
    else:
        figures = trl(options.folder, made, warm, TRL[options.contestant], options.repeats)
    print(json.dumps(figures))


def run(options):
    shape = building.SHAPES[options.shape]
    made = building.trajectories(options.trajectories, options.longest, shape["vocabulary"])
    lengths = [len(tokens) for tokens, *_ in made]
    result = {
        "shape": options.shape,
        "threads": options.threads,
        "trajectories": len(made),
        "tokens": sum(lengths),
        "sampled_tokens": int(sum(sampled.sum() for _, sampled, *_ in made)),
        "longest": max(lengths),
        "padded_tokens": len(made) * max(lengths),
        "contestants": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        building.make_folder(scratch, shape, options.longest + 64)
        words = {
            "folder": scratch,
            **{name: getattr(options, name) for name in ("shape", "threads", "trajectories", "longest", "repeats")},
        }
        for name in options.only.split(","):
            python = options.trl_python if name in TRL else sys.executable
            figures = building.contestant(python, __file__, name, words, options.threads)
            if "seconds" in figures:
                figures["tokens_per_second"] = round(sum(lengths) / figures["seconds"], 1)
                figures["tokens_per_processor_second"] = round(sum(lengths) / figures["processor_seconds"], 1)
            result["contestants"][name] = figures
            if not options.json:
                print(name, figures, flush=True)
    result["against"] = compared(result["contestants"])
    return result


def compared(contestants):
    """How many times the tokens a second, and what share of the peak memory, each of ours has of each other one."""
    measured = {name: figures for name, figures in contestants.items() if "seconds" in figures}
    return {
        f"{name}/{other}": {
            "tokens_per_second": round(measured[other]["seconds"] / measured[name]["seconds"], 2),
            "tokens_per_processor_second": round(
                measured[other]["processor_seconds"] / measured[name]["processor_seconds"], 2
            ),
            "peak_memory": round(measured[name]["peak_megabytes"] / max(measured[other]["peak_megabytes"], 0.1), 3),
        }
        for name in ("ours", "ours_lean")
        for other in measured
        if name in measured and other not in ("ours", "ours_lean")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("tiny", "60m"), default="tiny")
    parser.add_argument("--trajectories", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--longest", type=int, help="tokens of the longest; default 4000 (tiny), 2000 (60m)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", default=",".join(DEFAULT), help="contestants, separated by commas")
    parser.add_argument("--trl-python", default=sys.executable, help="python of a virtualenv that has TRL")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--contestant", choices=[*OURS, *TRL], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.longest = options.longest or building.LONGEST[options.shape]
    if options.contestant:
        compete(options)
        return
    result = run(options)
    if options.json:
        print(json.dumps(result))
    else:
        for name, figures in result["against"].items():
            print(f"{name:32} {figures['tokens_per_second']:8} x tokens/s {figures['peak_memory']:8} x peak memory")


if __name__ == "__main__":
    main()
