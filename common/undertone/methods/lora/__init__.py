"""The method that trains LoRA adapters in the UNet."""
