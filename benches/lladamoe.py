"""LLaDA-MoE in PyTorch (bf16), to be measured beside our engine: `chatdlm bench engine --against-pytorch`.

Takes a JSON file (see src/command/bench/peers/pytorch.rs) whose `model` is a GGUF file with matrices in bf16.
Prints one line of JSON: milliseconds of a pass, and the answer.
"""

import json
import mmap
import struct
import sys
import time

import torch
import torch.nn.functional as F

SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?"}
TYPES = {0: (torch.float32, 4), 30: (torch.bfloat16, 2)}


class Reader:
    """A GGUF file: `values` by key, `tensors` by name."""

    def __init__(self, path, device):
        self.device = device
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.at = 4
        _version, tensors, values = self.unpack("<I"), self.unpack("<Q"), self.unpack("<Q")
        self.values = {}
        for _ in range(values):
            key = self.text()
            self.values[key] = self.value(self.unpack("<I"))
        infos = [self.info() for _ in range(tensors)]
        start = (self.at + 31) // 32 * 32
        self.tensors = {name: self.tensor(start + offset, kind, shape) for name, kind, shape, offset in infos}

    def unpack(self, form):
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self):
        length = self.unpack("<Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, length = self.unpack("<I"), self.unpack("<Q")
            return [self.value(kind) for _ in range(length)]
        return self.unpack(SCALARS[kind])

    def info(self):
        name, dimensions = self.text(), self.unpack("<I")
        shape = [self.unpack("<Q") for _ in range(dimensions)][::-1]
        return name, self.unpack("<I"), shape, self.unpack("<Q")

    def tensor(self, start, kind, shape):
        dtype, width = TYPES[kind]
        count = 1
        for size in shape:
            count *= size
        numbers = torch.frombuffer(self.data, dtype=dtype, count=count, offset=start)
        return numbers.reshape(shape).to(self.device)


class Model:
    """Full attention, norm of queries and keys by head, experts by softmax over all of them."""

    def __init__(self, reader, length):
        number = lambda name: reader.values[f"llada-moe.{name}"]
        self.layers, self.chosen = number("block_count"), number("expert_used_count")
        self.heads, self.key_heads = number("attention.head_count"), number("attention.head_count_kv")
        self.eps = number("attention.layer_norm_rms_epsilon")
        self.w, self.device = reader.tensors, reader.device
        half = self.w["blk.0.attn_q_norm.weight"].shape[0] // 2
        angles = torch.outer(
            torch.arange(length).float(), number("rope.freq_base") ** (-torch.arange(half).float() / half)
        )
        both = lambda f: torch.cat([f, f], -1).bfloat16().to(self.device)
        self.cos, self.sin = both(angles.cos()), both(angles.sin())

    def norm(self, x, name):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.w[f"{name}.weight"]).bfloat16()

    def rotate(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin

    def attention(self, x, at):
        rows = x.shape[0]
        project = lambda name, heads: F.linear(x, self.w[f"{at}.{name}.weight"]).view(rows, heads, -1)
        q = self.norm(project("attn_q", self.heads), f"{at}.attn_q_norm").transpose(0, 1)
        k = self.norm(project("attn_k", self.key_heads), f"{at}.attn_k_norm").transpose(0, 1)
        v = project("attn_v", self.key_heads).transpose(0, 1)
        repeat = self.heads // self.key_heads
        k, v = (t.repeat_interleave(repeat, 0) for t in (self.rotate(k), v)) if repeat > 1 else (self.rotate(k), v)
        y = F.scaled_dot_product_attention(self.rotate(q)[None], k[None], v[None])[0]
        return F.linear(y.transpose(0, 1).reshape(rows, -1), self.w[f"{at}.attn_output.weight"])

    def experts(self, x, at):
        scores = F.linear(x.float(), self.w[f"{at}.ffn_gate_inp.weight"]).softmax(-1)
        weights, chosen = scores.topk(self.chosen, -1)
        gate, up, down = (self.w[f"{at}.ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
        out = torch.zeros_like(x)
        for expert in chosen.unique().tolist():
            row, slot = (chosen == expert).nonzero(as_tuple=True)
            y = x[row]
            y = F.linear(F.silu(F.linear(y, gate[expert])) * F.linear(y, up[expert]), down[expert])
            out.index_add_(0, row, y * weights[row, slot, None].bfloat16())
        return out

    def logits(self, ids, wanted):
        """Logits of the positions `wanted`, for only those can settle."""
        x = self.w["token_embd.weight"][ids]
        for i in range(self.layers):
            at = f"blk.{i}"
            x = x + self.attention(self.norm(x, f"{at}.attn_norm"), at)
            x = x + self.experts(self.norm(x, f"{at}.ffn_norm"), at)
        return F.linear(self.norm(x[wanted], "output_norm"), self.w["output.weight"]).float()


@torch.inference_mode()
def denoise(model, task, most_passes):
    """Block after block, the surest of a block first. Returns seconds, passes and ids."""
    prompt, block = task["prompt"], task["block"]
    ids = torch.tensor(prompt + [task["mask"]] * task["generate_tokens"], device=model.device)
    passes, began = 0, time.perf_counter()
    for start in range(len(prompt), len(ids), block):
        masked = torch.arange(start, start + block, device=model.device)
        while len(masked) and passes < most_passes:
            logits = model.logits(ids, masked)
            logits[:, task["banned"]] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            settled = confidence.topk(min(task["tokens_per_step"], len(masked))).indices
            ids[masked[settled]] = token[settled]
            masked = masked[torch.isin(torch.arange(len(masked), device=model.device), settled, invert=True)]
            passes += 1
    return time.perf_counter() - began, passes, ids[len(prompt) :].tolist()


def main():
    with open(sys.argv[1]) as file:
        task = json.load(file)
    torch.set_num_threads(task["threads"])
    model = Model(Reader(task["model"], task["device"]), len(task["prompt"]) + task["generate_tokens"])
    denoise(model, task, 1)
    runs = [denoise(model, task, task["most_passes"]) for _ in range(task["repeat"])]
    seconds, passes, answer = min(runs)
    report = {"ms_per_pass": 1e3 * seconds / passes, "answer": answer, "is_whole": task["mask"] not in answer}
    print(json.dumps(report))


main()
