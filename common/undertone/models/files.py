"""The files in which a release holds its weights, by kind."""

EMBEDS = "learned_embeds.safetensors"
LORA = "pytorch_lora_weights.safetensors"
DELTA = "delta.safetensors"
KINDS = (EMBEDS, LORA, DELTA)
