"""Files of `snnkern` that hold something else than they should."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes


class Tampered:
    """A file of `snnkern` whose parts may be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            self.tensors = {name: file.get_tensor(name).clone() for name in names}  # they may be views of the file
            self.description = json.loads(file.metadata()["snnkern"])

    def write(self) -> Path:
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        self.path.write_bytes(safetensors_bytes(tensors, {"snnkern": json.dumps(self.description)}))
        return self.path
