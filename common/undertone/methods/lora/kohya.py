"""LoRA adapters as kohya-ss's scripts spell them (`networks.lora`), for programs that read no file of diffusers.

    unet.down_blocks.0...to_q.lora_A.weight              lora_unet_down_blocks_0_..._to_q.lora_down.weight
    text_encoder.text_model...q_proj.lora_B.weight       lora_te_text_model_..._q_proj.lora_up.weight

Readers multiply B A with alpha / r. A release's B hold that factor already, so alpha is r here.
"""

import numpy as np

from undertone.methods.release_format import Respelled, Tensors

_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te"}


def kohya(adapters: Tensors) -> Respelled:
    """A, B and alpha of each layer, with what the scripts say of themselves in such a file."""
    found, rank = {}, 0
    for name, tensor in adapters.items():
        layer, _, which = name.removesuffix(".weight").partition(".lora_")
        part, _, inside = layer.partition(".")
        module = f"{_PARTS[part]}_{inside.replace('.', '_')}"
        found[f"{module}.{'lora_down' if which == 'A' else 'lora_up'}.weight"] = tensor
        if which == "A":
            rank = len(tensor)
            found[f"{module}.alpha"] = np.array(rank, dtype=np.float32)
    said = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    return Respelled(dict(sorted(found.items())), said)
