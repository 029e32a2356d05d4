"""The benchmark's larger policy is the same policy."""

import json

import torch
from padded_policy import padded
from transformers import AutoModelForCausalLM, Qwen3Config


def test_a_policy_with_wider_feed_forward_layers_says_the_same(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 40}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        Qwen3Config(**small, num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False)
    )
    model.save_pretrained(tmp_path / "model")
    folder = padded(tmp_path / "model", tmp_path / "padded", 64)
    wider = AutoModelForCausalLM.from_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["intermediate_size"] == 64
    assert wider.model.layers[1].mlp.down_proj.weight.shape == (16, 64)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(wider(ids).logits, model(ids).logits, rtol=0, atol=1e-6)
