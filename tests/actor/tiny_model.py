"""A random Qwen2 model of 100,000 parameters with untied embeddings, as a folder that vLLM and transformers load."""

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 200
STOP = 0


def make_model(folder, seed):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=STOP,
        bos_token_id=STOP,
    )
    model = Qwen2ForCausalLM(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


def reference_log_probs(model, ids, temperature=1.0):
    """log p(ids[i+1] | ids[:i+1]) [T-1] by transformers; `model` is a folder or a module."""
    model = model if isinstance(model, torch.nn.Module) else AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0, :-1].float()
    if temperature:
        logits /= temperature
    return torch.log_softmax(logits, -1)[range(len(ids) - 1), list(ids)[1:]].tolist()
