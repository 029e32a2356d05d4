"""A random Qwen2 model of 100,000 parameters as a folder that vLLM and transformers load."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 200
STOP = 0


def make_model(folder, seed, *, tied=False):
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
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


def make_adapter(folder, base, seed, rank):
    """A random LoRA adapter on the model in `base`, and what peft makes of both."""
    torch.manual_seed(seed)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder, model
