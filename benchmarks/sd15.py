"""Stable Diffusion 1.5 in full size, random weights: one step without privacy, with ours, and with Opacus.

python benchmarks/sd15.py --device cuda

UNet and text encoder come from their configs, so nothing is downloaded; token ids are fed directly; latents are
64x64. Batches 1, 2, 4, ... up to the largest that fits. Seconds and peak memory of a step; peak memory on a CPU is
the process's, and includes the weights.
"""

import resource
import statistics
import sys
import time
import warnings

import torch
from contestants import CONTESTANTS, Case, Denoiser
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from report import Row, parser, publish
from transformers import CLIPTextConfig, CLIPTextModel

from undertone.models.devices import free_memory, out_of_memory

NAMES = ("ours", "no privacy", "opacus hooks", "opacus ghost")
METHODS = {
    "dp-lora": lambda name: "lora_" in name,
    "dp-ldm": lambda name: ".attentions." in name or name.startswith("text_encoder."),
}


def make_case(method: str, rows: int, device: str) -> Case:
    """64x64 latents and 77 token ids for each row."""
    torch.manual_seed(0)
    inputs = (
        torch.randn(rows, 4, 64, 64).to(device),
        torch.randint(0, 1000, (rows,)).to(device),
        torch.randint(0, 49_000, (rows, 77)).to(device),
        torch.randn(rows, 4, 64, 64).to(device),
    )

    def build() -> Denoiser:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        if method == "dp-lora":
            unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        words = CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12, num_attention_heads=12
        )
        return Denoiser(unet, CLIPTextModel(words)).to(device)

    return Case(build, METHODS[method], inputs)


def measure(name: str, case: Case, device: str, repeats: int) -> tuple[float, float] | None:
    """Seconds (median) and peak GiB of a step, or None where memory ran out."""
    try:
        step = CONTESTANTS[name](case)
        step()
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(repeats):
            _wait(device)
            began = time.perf_counter()
            step()
            _wait(device)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds), _peak(device)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return None
    finally:
        free_memory(device)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rows_of(method: str, batch: int, found: dict[str, tuple[float, float]]) -> list[Row]:
    """Ours beside every other that fitted."""
    ours, title = found["ours"], f"{method}, batch {batch}"
    others = [name for name in found if name != "ours"]
    return [
        row
        for name in others
        for row in (
            Row(title, "seconds a step", ours[0], found[name][0], name),
            Row(title, "peak GiB", ours[1], found[name][1], name),
        )
    ]


def sweep(method: str, device: str, repeats: int, largest: int) -> list[Row]:
    """Double the batch until ours no longer fits; a peer that no longer fits drops out."""
    rows, running, batch = [], list(NAMES), 1
    while batch <= largest and "ours" in running:
        found = {}
        for name in list(running):
            measured = measure(name, make_case(method, batch, device), device, repeats)
            if measured is None:
                print(f"{method}: {name} does not fit at batch {batch}")
                running.remove(name)
            else:
                found[name] = measured
        if "ours" in found:
            rows += rows_of(method, batch, found)
        batch *= 2
    return rows


def main() -> None:
    """Measure and tabulate."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments.add_argument("--largest", type=int, help="no batch above this; by default 64 on a graphics card, else 1")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--tf32", action="store_true", help="let the model's own products be rounded to 10 bits")
    chosen = arguments.parse_args()
    if chosen.device == "cpu":
        print("no graphics card: a step takes minutes and memory is the machine's", file=sys.stderr)
    warnings.simplefilter("ignore", UserWarning)  # the peers' own, at every step
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = chosen.tf32
    largest = chosen.largest or (1 if chosen.device == "cpu" else 64)
    rows = []
    for method in chosen.methods:
        rows += sweep(method, chosen.device, chosen.repeats, largest)
    publish(f"Stable Diffusion 1.5 on {chosen.device}", rows, chosen.json)


if __name__ == "__main__":
    main()
