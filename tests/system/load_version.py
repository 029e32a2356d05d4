"""Load a published version with transformers and with vLLM and compare the probe's log-probs: `load_version.py FOLDER`.

Prints one JSON object: the largest absolute difference of each from what the learner published, nats.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def by_transformers(folder, tokens):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([tokens])).logits[0, :-1], dim=-1)
    return log_probs.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()


def by_vllm(folder, tokens):
    from vllm import LLM, SamplingParams

    engine = LLM(str(folder), dtype="float32", enforce_eager=True, max_model_len=640, max_num_seqs=4)
    asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
    output = engine.generate({"prompt_token_ids": tokens}, asked, use_tqdm=False)[0]
    return [entry[token].logprob for token, entry in zip(tokens[1:], output.prompt_logprobs[1:], strict=True)]


def main():
    folder = Path(sys.argv[1])
    probe = json.loads((folder / "manifest.json").read_text())["probe"]
    differences = {}
    for name, compute in (("transformers", by_transformers), ("vllm", by_vllm)):
        found = compute(folder, probe["tokens"])
        assert len(found) == len(probe["log_probs"])
        differences[name] = max(abs(a - b) for a, b in zip(found, probe["log_probs"], strict=True))
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
