"""GPUs by the name that the node label `nvidia.com/gpu.product` gives them: their memory, and how fast they multiply.

Memory is what `nvidia-smi` shows as total; speed is the data sheet's for bfloat16 with sums in float32, without sparsity.
A GPU that is shared or cut up (`-SHARED`, `-MIG-...`) is none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

MIB = 2**20
GIB = 2**30
RESERVED = GIB
"""What the driver and CUDA's own context take of each GPU."""


class Gpu(NamedTuple):
    """One product."""

    product: str
    mebibytes: int
    """All memory."""
    teraflops: float
    """10^12 operations a second in bfloat16."""

    @property
    def available(self) -> int:
        """Bytes that a process has for its tensors."""
        return self.mebibytes * MIB - RESERVED


GPUS: Mapping[str, Gpu] = {
    gpu.product: gpu
    for gpu in (
        Gpu("NVIDIA-B200", 183_359, 2250),
        Gpu("NVIDIA-H200", 143_771, 989),
        Gpu("NVIDIA-GH200-480GB", 97_871, 989),
        Gpu("NVIDIA-H100-NVL", 95_830, 835),
        Gpu("NVIDIA-A100-SXM4-80GB", 81_920, 312),
        Gpu("NVIDIA-A100-80GB-PCIe", 81_920, 312),
        Gpu("NVIDIA-H100-80GB-HBM3", 81_559, 989),
        Gpu("NVIDIA-H100-PCIe", 81_559, 756),
        Gpu("NVIDIA-RTX-6000-Ada-Generation", 49_140, 364),
        Gpu("NVIDIA-RTX-A6000", 49_140, 155),
        Gpu("NVIDIA-L40S", 46_068, 362),
        Gpu("NVIDIA-L40", 46_068, 181),
        Gpu("NVIDIA-A40", 46_068, 150),
        Gpu("NVIDIA-A100-SXM4-40GB", 40_960, 312),
        Gpu("NVIDIA-A100-PCIE-40GB", 40_960, 312),
        Gpu("NVIDIA-GeForce-RTX-5090", 32_607, 210),
        Gpu("NVIDIA-GeForce-RTX-3090", 24_576, 71),
        Gpu("NVIDIA-GeForce-RTX-4090", 24_564, 165),
        Gpu("NVIDIA-L4", 23_034, 121),
        Gpu("NVIDIA-A10G", 23_028, 70),
        Gpu("NVIDIA-A10", 23_028, 125),
    )
}
"""The products that are known, those with the most memory first."""
