"""The same policy at a larger one's cost: feed-forward layers padded with zeros, which change no token."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def padded(model, folder, width):
    """A copy of `model` in `folder` whose feed-forward layers are `width` wide; gives the folder.

    Rows of gate and up that are zero give silu(0) * 0 = 0, and meet columns of down that are zero.
    """
    folder = Path(folder)
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    more = width - config["intermediate_size"]
    assert more >= 0, f"{model} is {config['intermediate_size']} wide already"
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": width}))
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):  # [intermediate, hidden]
            tensors[name] = torch.cat([tensor, tensor.new_zeros(more, tensor.shape[1])])
        elif name.endswith("down_proj.weight"):  # [hidden, intermediate]
            tensors[name] = torch.cat([tensor, tensor.new_zeros(tensor.shape[0], more)], dim=1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
