"""The learner's memory against plain fine-tuning with peft: one update of a LoRA adapter on the same trajectories.

    python tests/bench/bench_memory.py [--shape tiny|60m] [--trajectories 64] [--threads 1] [--json]

Plain is what peft's documentation shows: get_peft_model, the model's own loss over labels, backward, AdamW. Each runs
in a process of its own in float32, on micro-batches of the same trajectories:

packed, plain_padded       the learner's micro-batches; plain has each as one batch, its rows padded to the longest
one_a_pass, plain_alone    one trajectory a pass on both sides: no padding, the very same tokens
...recomputed              both again with activations recomputed (the learner's option, transformers' for plain)

Peak memory is the highest resident memory in the update less what was there before (weights, adapter, moments), and
`whole_megabytes` with that. The learner computes a clipped ratio, entropies and diagnostics besides; plain computes
cross-entropy. `estimate_megabytes` is what learner/trainer/memory.py says of the same: it counts tensors, and glibc
keeps up to as much again in holes between them. With MALLOC_MMAP_THRESHOLD_=65536 before the command each tensor has a
mapping of its own, so that resident memory is what tensors hold (at a third more time).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import update_building as building

BUDGET = 4096
OURS = {
    "packed": {"micro_batch_tokens": BUDGET},
    "one_a_pass": {"micro_batch_tokens": 1},
    "packed_recomputed": {"micro_batch_tokens": BUDGET, "recompute_activations": True},
    "one_a_pass_recomputed": {"micro_batch_tokens": 1, "recompute_activations": True},
}
PLAIN = {
    "plain_padded": {"budget": BUDGET, "recompute": False},
    "plain_alone": {"budget": 1, "recompute": False},
    "plain_padded_recomputed": {"budget": BUDGET, "recompute": True},
    "plain_alone_recomputed": {"budget": 1, "recompute": True},
}


def ours(folder, made, warm, options, repeats):
    policy, optimizer, config = building.learner(folder, {"training": "lora", **options})

    def step(trajectories):
        from learner.trainer.update import update

        return {
            "loss": round(update(policy, optimizer, trajectories, config, step=1, policy_version=0, seed=1).loss, 6)
        }

    step(building.scored(warm))
    trajectories = building.scored(made)
    longest = max(len(tokens) for tokens, *_ in made)
    return {**building.measured(lambda: step(trajectories), repeats), "estimate_megabytes": estimated(config, longest)}


def estimated(config, longest):
    """Of what an update adds to what is there before: gradients, activations, the chunk's logits."""
    from learner.trainer.memory import estimate, read_shape

    made = estimate(read_shape(config.model.path), config.model, config.batch, longest=longest)
    return round((made.gradients + made.activations + made.working) / 2**20, 1)


def plain(folder, made, warm, options, repeats):
    """Peft as it is: labels are -100 where a token was not sampled, and the loss is the model's own."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from learner.trainer.batch import pack

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # out of the file's memory map, as the learner's are
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    model.train()
    if options["recompute"]:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step(trajectories):
        count = sum(int(sampled.sum()) for _, sampled, *_ in trajectories)
        told = 0.0
        for bin_ in pack([len(tokens) for tokens, *_ in trajectories], options["budget"]):
            rows = [trajectories[index] for index in bin_]
            longest = max(len(tokens) for tokens, *_ in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.int64)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, (tokens, sampled, *_) in enumerate(rows):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.from_numpy(tokens), 1
                labels[row, : len(tokens)] = torch.from_numpy(tokens).masked_fill(~torch.from_numpy(sampled), -100)
            output = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False)
            share = int((labels != -100).sum()) / count
            (output.loss * share).backward()
            told += float(output.loss.detach()) * share
            del output
        torch.nn.utils.clip_grad_norm_(trained, 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": round(told, 6)}

    step(warm)
    return building.measured(lambda: step(made), repeats)


def compete(options):
    """In a child: one contestant's figures as JSON."""
    made, warm = building.prepared(options)
    if options.contestant in OURS:
        figures = ours(options.folder, made, warm, OURS[options.contestant], options.repeats)
    else:
        figures = plain(options.folder, made, warm, PLAIN[options.contestant], options.repeats)
    figures["whole_megabytes"] = round(figures["before_megabytes"] + figures["peak_megabytes"], 1)
    print(json.dumps(figures))


def run(options):
    result = {name: getattr(options, name) for name in ("shape", "threads", "trajectories", "longest")}
    result["contestants"] = found = {}
    with tempfile.TemporaryDirectory() as scratch:
        building.make_folder(scratch, building.SHAPES[options.shape], options.longest + 64)
        words = {"folder": scratch, **{name: result[name] for name in result if name != "contestants"}}
        words["repeats"] = options.repeats
        for name in options.only.split(","):
            found[name] = building.contestant(sys.executable, __file__, name, words, options.threads)
            if not options.json:
                print(name, found[name], flush=True)
    result["ours_by_plain"] = {
        mine: {name: round(found[mine][name] / found[other][name], 3) for name in ("peak_megabytes", "whole_megabytes")}
        for mine, other in zip(OURS, PLAIN, strict=True)
        if "seconds" in found.get(mine, {}) and "seconds" in found.get(other, {})
    }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("tiny", "60m"), default="60m")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--longest", type=int, help="tokens of the longest; default 4000 (tiny), 2000 (60m)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", default=",".join([*OURS, *PLAIN]), help="contestants, separated by commas")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--contestant", choices=[*OURS, *PLAIN], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.longest = options.longest or building.LONGEST[options.shape]
    if options.contestant:
        compete(options)
        return
    result = run(options)
    print(json.dumps(result) if options.json else result["ours_by_plain"])


if __name__ == "__main__":
    main()
